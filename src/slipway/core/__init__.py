"""What every layer stands on: errors, language, paths, atomic files, events, manifests, processes.

`core` imports no other part of Slipway. Import from its modules, for example
`from slipway.core.errors import UsageError`.
"""
