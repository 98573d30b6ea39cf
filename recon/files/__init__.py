"""Scenes in files: safetensors in our run folders, PLY for other programs.

`verify.py` checks a written file: it reads the file back, draws it and compares the pictures.
"""

from lumigraph.recon.files.ply import load_ply, load_trusted_ply, save_ply
from lumigraph.recon.files.scene import load_scene, save_scene
from lumigraph.recon.files.verify import ExportCheck, verify_export

__all__ = [
    "ExportCheck",
    "load_ply",
    "load_scene",
    "load_trusted_ply",
    "save_ply",
    "save_scene",
    "verify_export",
]
