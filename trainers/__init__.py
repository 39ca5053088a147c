"""Methods, one a file; importing this package registers them all."""

from trainers import clipn, coop, gallop, locoop, zsclip
