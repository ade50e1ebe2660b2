"""Numbers about models as Plotly figures."""
