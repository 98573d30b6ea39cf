"""How far to trust a scene."""
