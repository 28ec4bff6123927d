"""The `dcf` command: what a person types, and what is printed.

main.py puts the verbs together; one file for each group of verbs. Modules
import grpc and the build only inside the verbs that need them, so that
`dcf --help` is there at once.
"""
