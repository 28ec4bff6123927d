"""DCF's messages under the name that they give as their module's: Ray sends them from process to process by it."""

from pb_gateway_pb2 import InvokeServiceRequest, Message

__all__ = ["InvokeServiceRequest", "Message"]
