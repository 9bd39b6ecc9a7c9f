"""LayerNorm tuning: only the norms' gains and biases learn (Zhao et al. 2023, arXiv:2312.11420)."""

from study.variants import full

VARIANT = full.VARIANT._replace(name="layer_norm", paper="2312.11420", sites="norms")
