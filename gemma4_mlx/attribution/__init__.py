"""Attribution: from a token of an answer back to what made the model say it.

``data`` holds attributions as values and ``file`` their files, ``sweep_data`` sweeps and
``roles_data`` the roles of heads, all with numpy alone; ``attributing``, ``sweeping`` and ``roles``
make them, and what of it needs MLX is imported when first used. No module has the name of a
function: importing it would take the function's place here.
"""

from ..lazy import lazily
from .data import Attribution, Effect, Part, open_attribution
from .roles_data import HeadRole, HeadRoles, open_head_roles
from .sweep_data import Place, Sweep, open_sweep

_HOMES = {
    "align": "aligning",
    "attribute": "attributing",
    "sweep": "sweeping",
    "Needle": "roles",
    "head_roles": "roles",
}

__all__ = [
    "Attribution",
    "Effect",
    "HeadRole",
    "HeadRoles",
    "Part",
    "Place",
    "Sweep",
    "open_attribution",
    "open_head_roles",
    "open_sweep",
]
__all__ += [*_HOMES]  # noqa: PLE0604

__getattr__ = lazily(__name__, _HOMES)
