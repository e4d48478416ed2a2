"""`llmjax report`: a run as one offline HTML page."""
