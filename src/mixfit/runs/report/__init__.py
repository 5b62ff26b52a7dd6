"""The HTML pages of ``mixfit``."""
