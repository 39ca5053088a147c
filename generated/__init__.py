"""The generated benchmark: few-shot OOD detection from end to end, without data or a GPU.

Every image is drawn by code (NumPy, Pillow), 96 x 96 RGB. It is **synthetic**: its figures say
nothing about ImageNet or any photographs, and must never be quoted as if they did.

    python -m generated --root data

What is drawn:

- *ID*: 24 classes of objects (`kinds.py`) over 14 natural-looking backgrounds
  (`backgrounds.py`), with nuisances (`clutter.py`) beside and sometimes in front of them. Colour,
  pose, proportions, light and position vary; an object covers about 8-35 % of the image, a thin one
  less. A mask shows where it is visible.
- *Far OOD*, in the roles of MCM's four sets: `generated-nature` (iNaturalist: 12 living-looking
  shapes over the same backgrounds), `generated-scenes` (SUN: 10 outdoor compositions),
  `generated-places` (Places: 10 indoor compositions) and `generated-textures` (Texture: 14
  patterns). The first three contain nuisances.
- *Near OOD*: `generated-near`, 10 objects of the super-categories of ID classes. No OOD set shows
  an ID class.
- *The training stream of the small CLIP* `generated/weights/generated_vit_s8.safetensors`, with
  captions (`captions.py`): everything that the generator can draw (one object, two or none, some of
  them close or on a plain background, and views), except half of the kinds of each OOD set, which
  were drawn from a seed fixed before training (`kinds.NEVER_NAMED`). It shares no image with the
  sets above.
- *Image-caption pairs*: 2,000 separate samples like those of the training stream, in the role of
  web data, on which CLIPN trains its "no" text encoder.
- *Shifted ID images* (`shifted.py`): 240 corrupted test images, for full-spectrum figures.
- *Words* from the captions (`words.py`), for NegLabel and CSP.

docs/generated.md tells how the small CLIP was trained, and which decisions were made.

Seeds: sample `index` of a stream depends only on (`streams.SEED`, the stream's name, index).
Streams: `clip-train`, `clip-held-out`, `web` (the pairs), `id-train/<class>` (the few-shot
pool), `id-val/<class>` (the test images), `ood/<set>`, `shifted/<class>` (noise on test images).
Generator, seed and counts were fixed before any OOD score was computed on them, and are not tuned
to a method. A change to what is drawn must raise `build.VERSION`, and every published figure that
depends on it must be measured again.

    data/generated/images/{train,val}/<class>/00000.png
    data/generated/masks/val/<class>/00000.png     255 where the object is visible, else 0
    data/generated/captions.csv                    path, caption, class, background
    data/generated/pairs/00000.png, pairs.csv      the pairs and their captions
    data/generated/shifted/<corruption>/<severity>/<class>_00000.png    their labels: shifted.txt
    data/generated/words/noun.thing.txt, ...       words for NegLabel and CSP (`words.py`)
    data/generated/generated.json                  version, seed, counts, hash of all pixels
    data/generated_ood/<set>/<concept>/00000.png
"""
