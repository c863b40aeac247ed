"""LoRA adapters: adding, saving and loading them."""
