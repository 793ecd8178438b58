"""Flask with psycopg 3: `guard(app, site)` adds the handler. Each request has its connection in `g.connection`, its user in `g.user`."""

import json

import psycopg
from flask import Flask, Response, g


def nonce_of(error: psycopg.Error) -> str | None:
    """The nonce of the guard's refusal, if `error` is one."""
    if error.sqlstate not in ("DM421", "40001"):
        return None
    try:
        detail = json.loads(error.diag.message_detail or "null")
    except ValueError:
        return None
    return detail.get("nonce") if isinstance(detail, dict) else None


def nonce_of_home(connection: psycopg.Connection, user, site: str) -> str | None:
    """After a foreign key refused a row: the nonce, if `user` does not live at this `site`."""
    (where,) = connection.execute("SELECT domicile.where_is(%s)", (user,)).fetchone()
    gone = where["home"] != site or where["state"] in (
        "fenced", "offered", "departed", "arriving", "clearing",
    )
    return where["nonce"] if gone else None


def guard(app: Flask, site: str) -> None:
    @app.errorhandler(psycopg.Error)
    def refused(error: psycopg.Error):
        # The transaction of the request: rolled back before anything is said.
        connection = g.get("connection")
        if connection is not None:
            connection.rollback()
        nonce = nonce_of(error)
        if nonce is None and error.sqlstate == "23503" and connection is not None:
            nonce = nonce_of_home(connection, g.get("user"), site)
        if nonce is None:
            raise error
        return Response(status=421, headers={"domicile-refused": nonce})
