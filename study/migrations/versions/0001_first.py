"""The ledger's first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Seven tables: studies, settings, results, memberships, failures, starts, mirrors."""
    op.create_table(
        "studies",
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("columns", sa.Text, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("finished", sa.Float),
        sa.Column("wall_seconds", sa.Float, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("place", sa.String(500), nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
    )
    op.create_table(
        "settings", sa.Column("key", sa.String(32), primary_key=True), sa.Column("document", sa.Text, nullable=False)
    )
    op.create_table(
        "results",
        sa.Column("key", sa.String(32), sa.ForeignKey("settings.key"), primary_key=True),
        sa.Column("seed", sa.Integer, primary_key=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("val_loss", sa.Float, nullable=False),
        sa.Column("val_score", sa.Float, nullable=False),
        sa.Column("test_score", sa.Float),
        sa.Column("loss0", sa.Float, nullable=False),
        sa.Column("score0", sa.Float, nullable=False),
        sa.Column("diverged", sa.Boolean, nullable=False),
        sa.Column("steps", sa.Integer, nullable=False),
        sa.Column("cpu_seconds", sa.Float, nullable=False),
        sa.Column("wall_seconds", sa.Float, nullable=False),
        sa.Column("peak_memory", sa.BigInteger, nullable=False),
        sa.Column("trainable", sa.Integer, nullable=False),
        sa.Column("curves", sa.Text, nullable=False),
        sa.Column("provenance", sa.Text, nullable=False),
        sa.Column("accepted", sa.Float, nullable=False),
    )
    op.create_table(
        "memberships",
        sa.Column("study", sa.String(200), sa.ForeignKey("studies.name"), primary_key=True),
        sa.Column("phase", sa.String(20), primary_key=True),
        sa.Column("key", sa.String(32), sa.ForeignKey("settings.key"), primary_key=True),
        sa.Column("seed", sa.Integer, primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("task", sa.String(200), nullable=False),
        sa.Column("variant", sa.String(200), nullable=False),
        sa.Column("knobs", sa.Text, nullable=False),
    )
    op.create_table(
        "failures",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study", sa.String(200), nullable=False),
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "starts",
        sa.Column("task", sa.String(32), primary_key=True),
        sa.Column("seed", sa.Integer, primary_key=True),
        sa.Column("loss0", sa.Float, nullable=False),
        sa.Column("score0", sa.Float, nullable=False),
    )
    op.create_table(
        "mirrors",
        sa.Column("study", sa.String(200), primary_key=True),
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("seed", sa.Integer, primary_key=True),
        sa.Column("place", sa.String(500), primary_key=True),
        sa.Column("run_id", sa.String(100), nullable=False),
    )
