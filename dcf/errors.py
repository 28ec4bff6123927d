"""Every error DCF raises, as one tree.

DcfError
├── ConfigError                  refused at start: name, value, what was expected
├── InvocationError              one call failed; the caller sees a status
│   ├── InvalidInputError        400 INVALID_ARGUMENT
│   ├── UnauthenticatedError     401 UNAUTHENTICATED      management call without the token
│   ├── FunctionNotFoundError    404 NOT_FOUND
│   ├── MeshCycleError           409 FAILED_PRECONDITION  the function is in the call's own chain
│   ├── PayloadTooLargeError     413 RESOURCE_EXHAUSTED
│   ├── OverloadedError          429 RESOURCE_EXHAUSTED   queue full; Retry-After header
│   ├── ClientGoneError          499 CANCELLED            nobody waits for the answer any more
│   ├── HandlerError             500 UNKNOWN              the user's code raised
│   ├── InternalError            500 INTERNAL             a bug of ours
│   ├── ReplicaLostError         502 UNAVAILABLE          broke mid-call; may have run
│   ├── NoReplicaError           503 UNAVAILABLE          none became ready in time
│   ├── ClusterUnavailableError  503 UNAVAILABLE          the store does not answer, or the gateway stops
│   └── DeadlineError            504 DEADLINE_EXCEEDED
├── GatewayUnreachableError      the client found no gateway, or lost it
├── BuildError                   a function could not be built
├── LoadError                    the user's file cannot be loaded: the watcher exits 1
├── ProtocolError                a peer sent what the protocol does not allow
├── LoopExitedError              a loop that runs for ever returned: a bug
├── StoreError
│   ├── StoreUnavailableError    retryable
│   └── LeaseLostError           stop acting, go back to waiting
└── BackendError
    ├── BackendUnavailableError  retryable
    ├── BackendConflictError     somebody else changed it meanwhile: look again
    ├── ImageNotFoundError       shown in the function's status
    ├── ImagePendingError        the image is being fetched: try again when it is there
    └── CapacityError            shown in the function's status

Which HTTP and gRPC status goes with an InvocationError is data: `rpc/status.py`.
"""

from __future__ import annotations


class DcfError(Exception):
    """Base of the tree; its text is one sentence that a user can act on."""


class ConfigError(DcfError):
    """A setting, flag or file was refused."""


class InvocationError(DcfError):
    """One call failed. Raised towards whoever made the call.

    Attributes:
        function, replica, invocation_id: where it happened; "" if not known there.
        retry_after_s: seconds after which a retry makes sense, None if not known.
        traceback: of the user's code, only where the function says `debug: true`.
    """

    def __init__(
        self,
        message: str,
        *,
        function: str = "",
        replica: str = "",
        invocation_id: str = "",
        retry_after_s: float | None = None,
        traceback: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.function = function
        self.replica = replica
        self.invocation_id = invocation_id
        self.retry_after_s = retry_after_s
        self.traceback = traceback


class InvalidInputError(InvocationError):
    """The request itself is wrong: its form, a field, a header, or the handler said so."""


class UnauthenticatedError(InvocationError):
    """A management call came without the cluster's token."""


class FunctionNotFoundError(InvocationError):
    """No function of that name is deployed."""


class MeshCycleError(InvocationError):
    """A handler called a function that is already waiting for it."""


class PayloadTooLargeError(InvocationError):
    """The body is over the function's `max_payload`."""


class OverloadedError(InvocationError):
    """The function's queue is full, or the call could not be answered in time."""


class ClientGoneError(InvocationError):
    """The caller went away before the answer was there."""


class HandlerError(InvocationError):
    """The user's code raised, or returned what cannot be sent."""


class InternalError(InvocationError):
    """DCF itself failed: a bug, with its traceback in the log."""


class ReplicaLostError(InvocationError):
    """The replica broke after the call was handed to it; the handler may have run."""


class NoReplicaError(InvocationError):
    """No replica became ready in time, or the function is known to have failed."""


class ClusterUnavailableError(InvocationError):
    """The cluster cannot do it now: its store does not answer, or this gateway stops. Nothing was done."""


class DeadlineError(InvocationError):
    """The call's time ended before its answer."""


class GatewayUnreachableError(DcfError):
    """Nothing answers at the gateway's address, or the connection broke mid-call."""


class BuildError(DcfError):
    """A function could not be built; the text ends with the failing step's last lines."""


class LoadError(DcfError):
    """The user's handler cannot be loaded; the watcher logs why and exits 1."""


class ProtocolError(DcfError):
    """A peer sent bytes that the protocol does not allow."""


class LoopExitedError(DcfError):
    """A loop ends by cancellation or by an error, never by returning."""


class StoreError(DcfError):
    """The store did not do what it was asked."""


class StoreUnavailableError(StoreError):
    """Redis does not answer; trying again later is right."""


class LeaseLostError(StoreError):
    """Another scheduler leads now: stop acting."""


class BackendError(DcfError):
    """What runs replicas did not do what it was asked."""


class BackendUnavailableError(BackendError):
    """It does not answer; trying again later is right."""


class BackendConflictError(BackendError):
    """Somebody else changed it since it was read: read it again, then decide again."""


class ImageNotFoundError(BackendError):
    """The function's image or bundle is not there."""


class ImagePendingError(BackendError):
    """The image is not here yet; it is being fetched, and the text says how far that is."""


class CapacityError(BackendError):
    """No room for the replica now, such as no free GPU; there may be some later."""
