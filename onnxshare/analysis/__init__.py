"""Facts about a model: where its weights sit, how often each is used, what could share them."""
