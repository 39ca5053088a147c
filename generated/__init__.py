"""The generated benchmark: few-shot OOD detection end to end without data or a GPU.

Every image is drawn by code (numpy, Pillow), 96 x 96 RGB. It is **synthetic**: its figures say
nothing about ImageNet or any photographs, and are never to be quoted as if they did.

    python -m generated --root data

What is drawn:

- *ID*: 16 classes of objects (`objects.py`) over 14 natural-looking backgrounds
  (`backgrounds.py`), with nuisances (`clutter.py`) beside and sometimes in front. Colour, pose,
  proportions, light and place vary; an object covers about 8-35 % of the image, thin ones less.
  A mask says where it shows.
- *OOD*: `generated-nature` (12 living-looking shapes over the same backgrounds: iNaturalist's
  part), `generated-scenes` (10 outdoor compositions: SUN's), `generated-places` (10 indoor
  ones: Places'), `generated-textures` (14 patterns: Texture's). Nuisances lie about in the
  first three. None shows an ID class.
- *The training stream of the small CLIP* `generated/weights/generated_vit_s8.safetensors`: the ID
  objects, 29 further objects (`further.py`), some close or before a plain background, pairs of
  objects, bare backgrounds, with captions (`captions.py`). It shares no image with the sets
  above, and none of the OOD sets' concepts occurs in it.

- *Image-caption pairs as the web has them*, 4,000 of their own, drawn like the CLIP's training
  stream: what CLIPN's "no" text encoder learns from. Concepts inside and outside the ID classes,
  none of the OOD sets'.

The small CLIP was made by these commands, which are also in its metadata (54 minutes on one busy
core with bfloat16; figures on the 800 test images: zero-shot accuracy 83.6 % with "a photo of a
{}.", the region that fits the true class best touches the object in 97 % of them, by chance 33 %):

    python -m generated.pretrain --source generated --images 40000 --steps 2400 --batch-size 128 \\
        --precision bf16 --seed 1 --output first.safetensors
    python -m generated.pretrain --source generated --images 60000 --steps 2600 --batch-size 128 \\
        --precision bf16 --seed 2 --init first.safetensors \\
        --output generated/weights/generated_vit_s8.safetensors

Seeds: sample `index` of a stream depends on (`streams.SEED`, the stream's name, index) alone.
Streams: `clip-train`, `clip-held-out`, `web` (the pairs), `id-train/<class>` (the few-shot
pool), `id-val/<class>` (the test images), `ood/<set>`. Generator, seed and counts were fixed
before any OOD score was computed on them, and are not tuned to a method. Any change to what is
drawn must raise
`build.VERSION`, and every published figure that rests on it is measured again. (Version 2 added
the pairs; all other images are those of version 1.)

    data/generated/images/{train,val}/<class>/00000.png
    data/generated/masks/val/<class>/00000.png     0 or 255, 255 where the object shows
    data/generated/captions.csv                    path, caption, class, background
    data/generated/pairs/00000.png, pairs.csv      the pairs, and their captions
    data/generated/words/noun.thing.txt, ...       words for NegLabel and CSP (`words.py`)
    data/generated/generated.json                  version, seed, counts, hash of all pixels
    data/generated_ood/<set>/<concept>/00000.png
"""
