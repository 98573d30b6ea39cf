"""Scenes in files: safetensors for our own runs, PLY for everyone else."""

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
