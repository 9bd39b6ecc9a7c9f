"""How Alembic runs here: on the ledger's own connection, with a version table of its own beside MLflow's."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table="lorascope_version")
context.run_migrations()
