"""What differs between the architectures of models, one file per family; `registry` lists them."""
