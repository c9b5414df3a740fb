"""Packages with a serializer, as pip installs them in a directory of Python's path."""

from pathlib import Path


def install_plugin(directory: Path, entry_points: str, **modules: str) -> None:
    """Write modules, by name and source, and the metadata of entry points (`name = module:factory`)."""
    for name, source in modules.items():
        (directory / f"{name}.py").write_text(source)
    about = directory / f"{next(iter(modules), 'nothing')}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about.name.partition('-')[0]}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[kafka_http.serializers]\n{entry_points}\n")
