import pytest

# Their assertions are told as those of test files are.
pytest.register_assert_rewrite("tests.contracts.backend_contract", "tests.contracts.replica_contract")
