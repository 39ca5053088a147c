"""Methods, one a file; importing this package registers them all."""

from trainers import clipn, coop, fa, fobor, locoop, sct, zsclip
