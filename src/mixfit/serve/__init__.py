"""A finished run behind HTTP: an API for programs, and a form for people.

Needs the extra ``serve``; nothing below this package knows of it. Start reading at ``service``."""
