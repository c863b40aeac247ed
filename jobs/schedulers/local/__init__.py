"""Jobs on this machine, one after another or one per GPU, in processes of their own."""
