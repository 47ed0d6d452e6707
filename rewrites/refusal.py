"""Why a site cannot be rewritten."""


class Refusal(Exception):
    """Why a site cannot be rewritten; caught where sites are listed, never shown as an error."""
