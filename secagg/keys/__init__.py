"""How silos make the key of an encrypted scheme, hand it to each other sealed, and keep it."""
