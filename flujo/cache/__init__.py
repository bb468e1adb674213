"""Where results of `Step.cached` are kept, and under which key."""
