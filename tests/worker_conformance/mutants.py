"""Mistakes that a worker may make: each is one change of worker.py, which the suite has to notice.

Out:  MUTANTS. test_mutants.py applies them, and test_mutants.py alone.
Pure: data.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One mistake."""

    name: str
    old: str
    """Occurs exactly once in worker.py."""
    new: str
    killed_by: str
    """The test that is about it, and has to fail."""
    source: str = "python"
    """The form of the handler under test."""


MUTANTS = (
    Mutant(
        name="an answer has the id of another call",
        old="        data = body if head is None else frame(call.id, REPLY, head + body, LAST)\n"
        "        with self.lock:\n            self.finish(call, data)\n            if not batched:",
        new="        data = body if head is None else frame(call.id + 1, REPLY, head + body, LAST)\n"
        "        with self.lock:\n            self.finish(call, data)\n            if not batched:",
        killed_by="test_calls.py::test_every_byte_value_travels",
    ),
    Mutant(
        name="a piece of an input is never credited",
        old='            else:\n                self.send(frame(call_id, CREDIT, len(payload).to_bytes(4, "big")))',
        new="            elif len(call.pieces) != 3:\n"
        '                self.send(frame(call_id, CREDIT, len(payload).to_bytes(4, "big")))',
        killed_by="test_credit.py::test_every_single_piece_is_credited_before_the_next_one_comes",
    ),
    Mutant(
        name="a large answer goes on without credit",
        old="                while len(piece) > call.credit and not call.cancelled:\n                    self.flush()",
        new="                while call.credit < -len(piece) and not call.cancelled:\n                    self.flush()",
        killed_by="test_credit.py::test_large_answer_stops_at_its_window_and_goes_on_with_credit",
    ),
    Mutant(
        name="a stream goes on without credit",
        old="                while call.credit <= 0 and call.streaming and not call.cancelled:\n"
        "                    self.flush()",
        new="                while call.credit <= -65536 and call.streaming and not call.cancelled:\n"
        "                    self.flush()",
        killed_by="test_credit.py::test_stream_stops_at_its_window_and_goes_on_with_credit",
    ),
    Mutant(
        name="a frame of a stream costs nothing over its payload",
        old="        call.credit -= len(piece) + FRAME_COST_BYTES\n",
        new="        call.credit -= len(piece)\n",
        killed_by="test_credit.py::test_stream_stops_at_its_window_and_goes_on_with_credit",
    ),
    Mutant(
        name="a stream of input begins with no credit at all",
        old="            self.give_credit(call)  # the first: it is here now, and will not be sent elsewhere",
        new="            call.owed = 0",
        killed_by="test_credit.py::test_stream_of_input_begins_without_credit_and_is_given_its_window",
    ),
    Mutant(
        name="a message of input is credited before its consumer takes it",
        old='                call.inputs.append((b"".join(call.pieces), cost))\n',
        new='                call.inputs.append((b"".join(call.pieces), 1))\n'
        "                call.owed += cost\n                self.give_credit(call)\n",
        killed_by="test_credit.py::test_consumer_that_takes_nothing_stops_its_sender",
    ),
    Mutant(
        name="a large answer holds its slot",
        old="            self.submit_big(call, head, body)\n            return\n        data =",
        new="            self.send_pieces(call, head, body)\n            return\n        data =",
        killed_by="test_credit.py::test_answer_that_waits_for_credit_does_not_hold_its_slot",
    ),
    Mutant(
        name="a cancelled call is answered a second time when its handler returns",
        old="            call.cancelled = True\n            if not call.started:\n                self.give_up(call)\n",
        new="            call.cancelled = True\n            if not call.started:\n                self.give_up(call)\n"
        '            else:\n                self.out.append(error_frame(call.id, "client_gone", "cancelled"))\n'
        "                self.flush()\n",
        killed_by="test_cancel.py::test_cancelled_call_is_answered_once_although_its_handler_returns_a_result",
    ),
    Mutant(
        name="a cancelled call that has not started is never answered",
        old="            if not call.started:\n                self.give_up(call)\n",
        new="            if not call.started:\n                del self.calls[call.id]\n",
        killed_by="test_cancel.py::test_call_that_waits_for_a_slot_is_answered_at_once_and_never_runs",
    ),
    Mutant(
        name="a call that was cancelled before its start runs nevertheless",
        old="            if call.id not in self.calls:\n                return None\n            call.started = True",
        new="            call.started = True",
        killed_by="test_cancel.py::test_call_that_waits_for_a_slot_is_answered_at_once_and_never_runs",
    ),
    Mutant(
        name="an early cancel is forgotten",
        old="                    self.early_cancels.add(call_id)\n",
        new="                    pass\n",
        killed_by="test_cancel.py::test_cancel_that_comes_before_its_open_is_kept_and_the_call_never_runs",
    ),
    Mutant(
        name="a late cancel is kept for the next call with its id",
        old="                if 0 < (call_id - self.newest) % MESH_BIT < MESH_BIT // 2:\n",
        new="                if call_id:\n",
        killed_by="test_cancel.py::test_late_cancel_does_not_hit_the_call_that_has_its_id_after_the_wrap",
    ),
    Mutant(
        name="an early cancel is forgotten where the ids begin again",
        old="                if 0 < (call_id - self.newest) % MESH_BIT < MESH_BIT // 2:\n",
        new="                if call_id > self.newest:\n",
        killed_by="test_cancel.py::test_cancel_of_an_id_after_the_wrap_is_early_and_one_of_before_it_is_late",
    ),
    Mutant(
        name="a handler is not told that nobody waits",
        old="        return call.cancelled or (call.deadline",
        new="        return False and call.cancelled or (call.deadline",
        killed_by="test_cancel.py::test_running_handler_is_told_and_its_slot_is_free_again",
    ),
    Mutant(
        name="an answer has no last frame",
        old="        data = body if head is None else frame(call.id, REPLY, head + body, LAST)\n"
        "        with self.lock:\n            self.finish(call, data)\n        self.flush_soon()",
        new="        data = body if head is None else frame(call.id, REPLY, head + body)\n"
        "        with self.lock:\n            self.finish(call, data)\n        self.flush_soon()",
        killed_by="test_calls.py::test_every_byte_value_travels",
        source="python_async",
    ),
    Mutant(
        name="one handler more runs than there are slots",
        old="            while line and len(running) < slots:\n",
        new="            while line and len(running) < slots + 1:\n",
        killed_by="test_calls.py::test_no_more_handlers_run_at_once_than_there_are_slots",
        source="python_async",
    ),
    Mutant(
        name="one thread more takes calls than there are slots",
        old="        self.start_threads(slots, take)\n",
        new="        self.start_threads(slots + 1, take)\n",
        killed_by="test_calls.py::test_no_more_handlers_run_at_once_than_there_are_slots",
    ),
    Mutant(
        name="the call that came last starts first",
        old="                calls = line.popleft()\n",
        new="                calls = line.pop()\n",
        killed_by="test_calls.py::test_calls_start_in_the_order_in_which_their_inputs_became_whole",
        source="python_async",
    ),
    Mutant(
        name="a traceback is sent without debug",
        old='message, text if self.debug else "")',
        new="message, text)",
        killed_by="test_calls.py::test_error_carries_no_traceback_without_debug",
    ),
    Mutant(
        name="text is said to be bytes",
        old='        return TEXT, b"", result.encode("utf-8")',
        new='        return BYTES, b"", result.encode("utf-8")',
        killed_by="test_calls.py::test_text_and_json_say_their_content_kind",
    ),
    Mutant(
        name="`length` is that of the first piece",
        old="length=len(body))",
        new="length=PIECE_BYTES)",
        killed_by="test_calls.py::test_input_of_any_size_comes_back_as_it_was",
    ),
    Mutant(
        name="a stream has no last frame",
        old='            data = frame(call.id, DATA, b"", LAST)\n',
        new='            data = frame(call.id, DATA, b"")\n',
        killed_by="test_streams.py::test_answers_come_while_the_input_is_still_open",
    ),
    Mutant(
        name="END is missing where a message has several frames",
        old="        for piece, flags in pieces_of(body, STREAM_PIECE_BYTES, END):\n            with self.lock:",
        new="        for piece, flags in pieces_of(body, STREAM_PIECE_BYTES, END if len(body) < 65537 else 0):\n"
        "            with self.lock:",
        killed_by="test_streams.py::test_messages_of_any_size_come_back_in_order",
    ),
    Mutant(
        name="a stream that fails before its first message begins nevertheless",
        old="        if error is not None:\n            data = self.failure(call, error)\n        elif",
        new="        if error is not None:\n"
        "            head = REPLY_PREFIX.pack(0, 0, 0, 0, 0)\n"
        '            data = b"" if call.streaming else frame(call.id, REPLY, head, STREAM)\n'
        "            data += self.failure(call, error)\n        elif",
        killed_by="test_streams.py::test_error_before_the_first_message_is_a_plain_error",
    ),
    Mutant(
        name="a mesh call does not name its parent",
        old='"parent": mesh.parent.id if mesh.parent else 0}',
        new='"parent": 0}',
        killed_by="test_mesh.py::test_mesh_call_names_its_function_and_its_parent",
    ),
    Mutant(
        name="a mesh call lives on when its parent is cancelled",
        old="            if call.task is None:\n                # Sync",
        new="            if False:\n                # Sync",
        killed_by="test_mesh.py::test_mesh_call_is_cancelled_with_its_parent",
    ),
    Mutant(
        name="the answer of a mesh call is never credited",
        old='                    self.out.append(frame(call_id, CREDIT, len(payload).to_bytes(4, "big")))\n',
        new="",
        killed_by="test_mesh.py::test_large_answer_of_a_mesh_call_is_credited_piece_by_piece",
    ),
    Mutant(
        name="a frame that is too long is believed",
        old="            if length > MAX_FRAME_BYTES:\n",
        new="            if length > MAX_FRAME_BYTES * 1024:\n",
        killed_by="test_malformed.py::test_bad_frame_on_the_control_socket_ends_the_worker_while_a_handler_runs",
    ),
    Mutant(
        name="an unknown kind is ignored",
        old="    if not HELLO <= kind <= BATCH:\n",
        new="    if False:\n",
        killed_by="test_malformed.py::test_unknown_kind_for_an_open_call_ends_the_worker",
    ),
    Mutant(
        name="an OPEN that is shorter than it says is believed",
        old="        if metadata_end > len(payload):\n",
        new="        if False:\n",
        killed_by="test_malformed.py::test_bad_frame_on_the_data_socket_ends_the_worker",
    ),
    Mutant(
        name="SHUTDOWN is ignored",
        old="        if kind == SHUTDOWN:\n            leave(0)\n",
        new="        if kind == SHUTDOWN:\n            return\n",
        killed_by="test_shutdown.py::test_idle_worker_ends_at_once",
    ),
    Mutant(
        name="what handlers printed is lost at the end",
        old="    for step in (atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):\n",
        new="    for step in (atexit._run_exitfuncs,):\n",
        killed_by="test_shutdown.py::test_what_handlers_printed_is_not_lost",
    ),
    Mutant(
        name="a batch runs those too that were cancelled meanwhile",
        old="            batch = [self.calls[call_id] for call_id in ids if call_id in self.calls]\n",
        new="            batch = [self.calls[call_id] for call_id in ids]\n",
        killed_by="test_batches.py::test_call_that_was_cancelled_meanwhile_is_left_out",
    ),
)
