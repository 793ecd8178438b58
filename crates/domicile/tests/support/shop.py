"""The shop behind Flask, with the handler of docs/application/flask_psycopg.py. Arguments: port, site; SHOP_DATABASE is its database."""

import os
import queue
import sys

import psycopg
from flask import Flask, g, jsonify, request
from werkzeug.serving import WSGIRequestHandler

from flask_psycopg import guard

PORT, SITE = int(sys.argv[1]), sys.argv[2]
CONNECTIONS = 16

idle: "queue.Queue[psycopg.Connection]" = queue.Queue()
app = Flask(__name__)
guard(app, SITE)


@app.before_request
def take():
    g.connection = idle.get()
    g.user = request.view_args["user"]


@app.teardown_request
def put_back(_error):
    connection = g.pop("connection", None)
    if connection is not None:
        connection.rollback()
        idle.put(connection)


@app.get("/users/<int:user>")
def account(user):
    (last,) = g.connection.execute("SELECT max(invoice_id) FROM invoice WHERE customer_id = %s", (user,)).fetchone()
    return jsonify(site=SITE, last=last)


@app.post("/users/<int:user>/invoices")
def order(user):
    invoice = request.get_json()["invoice"]
    g.connection.execute(
        "INSERT INTO invoice (invoice_id, customer_id, invoice_date, total) VALUES (%s, %s, now(), 1)",
        (invoice, user),
    )
    g.connection.commit()
    return jsonify(site=SITE, last=invoice)


for _ in range(CONNECTIONS):
    idle.put(psycopg.connect(os.environ["SHOP_DATABASE"]))
WSGIRequestHandler.protocol_version = "HTTP/1.1"
app.run(host="127.0.0.1", port=PORT, threaded=True)
