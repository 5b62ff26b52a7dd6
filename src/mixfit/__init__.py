"""mixfit: train one model on table rows together with their photos.

The public names load on first use (PEP 562): ``import mixfit`` itself loads neither torch nor pandas."""
