"""The generated benchmark: few-shot OOD detection end to end without data or a GPU.

Every image is drawn by code (numpy, Pillow), 96 x 96 RGB. It is **synthetic**: its figures say
nothing about ImageNet or any photographs, and are never to be quoted as if they did.

    python -m generated --root data

What is drawn:

- *ID*: 24 classes of objects (`kinds.py`) over 14 natural-looking backgrounds
  (`backgrounds.py`), with nuisances (`clutter.py`) beside and sometimes in front. Colour, pose,
  proportions, light and place vary; an object covers about 8-35 % of the image, thin ones less.
  A mask says where it shows.
- *Far OOD*: `generated-nature` (12 living-looking shapes over the same backgrounds: iNaturalist's
  part), `generated-scenes` (10 outdoor compositions: SUN's), `generated-places` (10 indoor
  ones: Places'), `generated-textures` (14 patterns: Texture's). Nuisances lie about in the
  first three.
- *Near OOD*: `generated-near`, 10 objects of the super-categories of ID classes. No OOD set shows
  an ID class.
- *The training stream of the small CLIP* `generated/weights/generated_vit_s8.safetensors`: all
  that the generator can draw, one thing or two or none, some close or before a plain background,
  and views, with captions (`captions.py`), but for half of the kinds of each OOD set, drawn from
  a seed written down before training (`kinds.NEVER_NAMED`). It shares no image with the sets above.
- *Image-caption pairs as the web has them*, 2,000 of their own, drawn like the CLIP's training
  stream: what CLIPN's "no" text encoder learns from.
- *Shifted ID images* (`shifted.py`): 240 corruptions of test images, for full-spectrum figures.
- *Words* that captions name (`words.py`), for NegLabel and CSP.

How the small CLIP was trained, and what was decided on the way: docs/generated.md.

Seeds: sample `index` of a stream depends on (`streams.SEED`, the stream's name, index) alone.
Streams: `clip-train`, `clip-held-out`, `web` (the pairs), `id-train/<class>` (the few-shot
pool), `id-val/<class>` (the test images), `ood/<set>`, `shifted/<class>` (noise on test images).
Generator, seed and counts were fixed before any OOD score was computed on them, and are not tuned
to a method. Any change to what is drawn must raise `build.VERSION`, and every published figure that
rests on it is measured again.

    data/generated/images/{train,val}/<class>/00000.png
    data/generated/masks/val/<class>/00000.png     0 or 255, 255 where the object shows
    data/generated/captions.csv                    path, caption, class, background
    data/generated/pairs/00000.png, pairs.csv      the pairs, and their captions
    data/generated/shifted/<corruption>/<severity>/00000.png, shifted.txt    and their labels
    data/generated/words/noun.thing.txt, ...       words for NegLabel and CSP (`words.py`)
    data/generated/generated.json                  version, seed, counts, hash of all pixels
    data/generated_ood/<set>/<concept>/00000.png
"""
