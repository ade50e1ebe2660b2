"""The screen: Gradio and Plotly live here."""
