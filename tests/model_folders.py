"""A models folder that stands in for ComfyUI's folder_paths."""


class Folders:
    """What the benchmark asks of folder_paths, below one folder."""

    folder_names_and_paths = frozenset(
        ("background_removal", "clip_vision", "detection", "flexid", "text_encoders")
    )

    def __init__(self, root):
        self.root = root

    def get_folder_paths(self, name):
        return [str(self.root / name)]

    def get_filename_list(self, name):
        return sorted(path.name for path in (self.root / name).glob("*"))

    def get_full_path(self, name, file):
        return str(self.root / name / file)
