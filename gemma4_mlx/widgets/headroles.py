"""The roles of heads, from a table over many prompts, for the map of heads."""

from __future__ import annotations

import numpy as np

from ..attribution import HeadRoles


def checked_roles(roles, data) -> HeadRoles | None:
    """The roles, None without any, if they fit the ``AttentionData`` of a trace.

    Raises TypeError for what is no table of roles, ValueError for one of a model of another size.
    """
    if roles is None:
        return None
    if not isinstance(roles, HeadRoles):
        raise TypeError(
            f"roles is a table of heads from g4.head_roles(...) or g4.open_head_roles(...), not a "
            f"{type(roles).__name__}"
        )
    layers, heads = roles.shape
    for part in data.parts if data is not None else ():
        if part.layer >= layers or part.all_heads != heads:
            raise ValueError(
                f"the roles are of a model of {layers} layers with {heads} heads; this trace has "
                f"layer {part.layer} with {part.all_heads}"
            )
    return roles


def role_columns(roles: HeadRoles, data) -> tuple[list, list[np.ndarray], list[list[str]]]:
    """[name, words] of every role that some prompt could tell; each one's scores of the traced
    heads, (heads,) in the order of layers; and the roles that each head has."""
    places = [(layer, head) for layer in data.layers for head in data.heads(layer)]
    rows, columns = np.array(places).T
    words, scores = [], []
    for role, values in roles.scores.items():
        if np.isfinite(values).any():
            words.append([f"role.{role}", f"role: {role}"])
            scores.append(values[rows, columns])
    labels = roles.labels
    return words, scores, [list(labels.get(place, ())) for place in places]
