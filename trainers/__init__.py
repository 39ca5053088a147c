"""Methods, one a file; importing this package registers them all."""

from trainers import clipn, coop, fa, fobor, gallop, locoop, sct, zoc, zsclip
