"""Building blocks, safe only as the schemes use them."""
