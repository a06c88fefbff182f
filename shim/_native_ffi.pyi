# SPDX-License-Identifier: Apache-2.0
"""What native/decl declares, as cffi gives it to Python."""

from cffi import FFI

class Lib:
    PF_DIAG_TCP: int
    PF_DIAG_UDP: int
    PF_DIAG_UNIX: int
    PF_DIAG_PACKET: int
    PF_DIAG_NETLINK: int
    PF_ACTIVITY_XDP: int
    PF_ACTIVITY_TC: int
    PF_HOLD_ADDRESSES_MAX: int
    PF_HOLD_PHASE_PASS: int
    PF_HOLD_PHASE_HELD: int
    PF_HOLD_PHASE_RELEASING: int
    PF_HOLD_FLAG_WAKE_ON_ICMP: int
    PF_HOLD_FLAG_SHARED_DEVICE: int
    PF_HOLD_FLAG_DELIVER_PEER: int
    PF_HOLD_FLAG_CLSACT: int
    PF_HOLD_FLAG_CLSACT_IS_OURS: int
    PF_HOLD_PROGRAM_TO_POD: int
    PF_HOLD_PROGRAM_FROM_POD: int
    PF_HOLD_PROGRAM_FAR_END: int
    PF_RUN_ZERO: int
    PF_RUN_SUSPECT: int
    PF_TRACKER_AUTO: int
    PF_TRACKER_WP_ASYNC: int
    PF_TRACKER_HASH: int
    PF_PAGE_READ: int
    PF_PAGE_ZERO: int
    PF_PAGE_GONE: int
    PF_TREE_BLOCK_BYTES: int
    PF_TREE_OVERLAY: int
    PF_TREE_ALL_FILES: int

    def pf_probe_userfaultfd(self, features: FFI.CData, err: FFI.CData) -> int: ...
    def pf_probe_pagemap_scan(self, err: FFI.CData) -> int: ...
    def pf_probe_soft_dirty(self, err: FFI.CData) -> int: ...
    def pf_probe_process_vm_readv(self, err: FFI.CData) -> int: ...
    def pf_probe_set_tid(self, err: FFI.CData) -> int: ...
    def pf_probe_pidfd_getfd(self, err: FFI.CData) -> int: ...
    def pf_probe_ptrace(self, err: FFI.CData) -> int: ...
    def pf_probe_tcp_repair(self, err: FFI.CData) -> int: ...
    def pf_probe_sock_diag(self, present: FFI.CData, err: FFI.CData) -> int: ...
    def pf_probe_link_kind(self, kind: bytes, err: FFI.CData) -> int: ...
    def pf_probe_qdisc_kind(self, kind: bytes, err: FFI.CData) -> int: ...
    def pf_probe_xdp_generic(self, err: FFI.CData) -> int: ...
    def pf_probe_tcx(self, err: FFI.CData) -> int: ...
    def pf_probe_clsact(self, err: FFI.CData) -> int: ...
    def pf_activity_open(
        self,
        out: FFI.CData,
        pin_dir: bytes | FFI.CData,
        verifier_log: FFI.CData,
        verifier_log_bytes: int,
        err: FFI.CData,
    ) -> int: ...
    def pf_activity_close(self, activity: FFI.CData) -> None: ...
    def pf_activity_program_fd(self, activity: FFI.CData, program: int) -> int: ...
    def pf_activity_watch(self, activity: FFI.CData, address: bytes, err: FFI.CData) -> int: ...
    def pf_activity_unwatch(self, activity: FFI.CData, address: bytes, err: FFI.CData) -> int: ...
    def pf_activity_read(
        self, activity: FFI.CData, address: bytes, out: FFI.CData, err: FFI.CData
    ) -> int: ...
    def pf_activity_test_run(
        self,
        activity: FFI.CData,
        program: int,
        frame: bytes,
        frame_bytes: int,
        verdict: FFI.CData,
        err: FFI.CData,
    ) -> int: ...
    def pf_hold_install(
        self,
        pin_dir: bytes,
        settings: FFI.CData,
        addresses: bytes,
        address_count: int,
        verifier_log: FFI.CData,
        verifier_log_bytes: int,
        err: FFI.CData,
    ) -> int: ...
    def pf_hold_uninstall(self, pin_dir: bytes, err: FFI.CData) -> int: ...
    def pf_hold_open(self, out: FFI.CData, pin_dir: bytes, err: FFI.CData) -> int: ...
    def pf_hold_close(self, hold: FFI.CData) -> None: ...
    def pf_hold_phase_fd(self, hold: FFI.CData) -> int: ...
    def pf_hold_events_fd(self, hold: FFI.CData) -> int: ...
    def pf_hold_read_phase(self, hold: FFI.CData, phase: FFI.CData, err: FFI.CData) -> int: ...
    def pf_hold_write_phase(self, hold: FFI.CData, phase: int, err: FFI.CData) -> int: ...
    def pf_hold_read_settings(self, hold: FFI.CData, out: FFI.CData, err: FFI.CData) -> int: ...
    def pf_hold_read_counters(self, hold: FFI.CData, out: FFI.CData, err: FFI.CData) -> int: ...
    def pf_hold_read_addresses(
        self, hold: FFI.CData, out: FFI.CData, count: FFI.CData, err: FFI.CData
    ) -> int: ...
    def pf_hold_write_target(
        self, hold: FFI.CData, family: int, target: FFI.CData, err: FFI.CData
    ) -> int: ...
    def pf_hold_read_target(
        self, hold: FFI.CData, family: int, out: FFI.CData, err: FFI.CData
    ) -> int: ...
    PF_REROUTE_MAP_ADDRESSES: int
    PF_REROUTE_MAP_FLOWS: int
    PF_REROUTE_MAP_NODES: int
    def pf_reroute_open(
        self,
        out: FFI.CData,
        pin_dir: bytes,
        verifier_log: FFI.CData,
        verifier_log_bytes: int,
        err: FFI.CData,
    ) -> int: ...
    def pf_reroute_close(self, reroute: FFI.CData) -> None: ...
    def pf_reroute_attach(
        self, reroute: FFI.CData, program: int, ifindex: int, xdp_mode: int, err: FFI.CData
    ) -> int: ...
    def pf_reroute_detach(
        self, pin_dir: bytes, program: int, ifindex: int, err: FFI.CData
    ) -> int: ...
    def pf_reroute_uninstall(self, pin_dir: bytes, err: FFI.CData) -> int: ...
    def pf_reroute_put(
        self, reroute: FFI.CData, map: int, key: bytes, value: FFI.CData, err: FFI.CData
    ) -> int: ...
    def pf_reroute_get(
        self, reroute: FFI.CData, map: int, key: bytes, value: FFI.CData, err: FFI.CData
    ) -> int: ...
    def pf_reroute_drop(self, reroute: FFI.CData, map: int, key: bytes, err: FFI.CData) -> int: ...
    def pf_reroute_next(
        self, reroute: FFI.CData, map: int, previous: FFI.CData, key: FFI.CData, err: FFI.CData
    ) -> int: ...
    def pf_reroute_read_counters(
        self, reroute: FFI.CData, out: FFI.CData, err: FFI.CData
    ) -> int: ...
    def pf_reroute_test_run(
        self,
        reroute: FFI.CData,
        program: int,
        frame: bytes,
        frame_bytes: int,
        ifindex: int,
        repeat: int,
        out: FFI.CData,
        out_bytes: FFI.CData,
        verdict: FFI.CData,
        duration_ns: FFI.CData,
        err: FFI.CData,
    ) -> int: ...
    def pf_hold_settle(self, hold: FFI.CData, phase: FFI.CData, err: FFI.CData) -> int: ...
    def pf_hold_rearm(self, hold: FFI.CData, err: FFI.CData) -> int: ...
    def pf_hold_listen_again(self, hold: FFI.CData, err: FFI.CData) -> int: ...
    def pf_hold_take_event(self, hold: FFI.CData, out: FFI.CData, err: FFI.CData) -> int: ...
    def pf_hold_test_run(
        self,
        hold: FFI.CData,
        program: int,
        frame: bytes,
        frame_bytes: int,
        mark: int,
        verdict: FFI.CData,
        err: FFI.CData,
    ) -> int: ...
    def pf_hold_make_pin_dir(self, root: bytes, pin_dir: bytes, err: FFI.CData) -> int: ...
    def pf_hold_find_device(
        self,
        netns_path: bytes,
        address: bytes,
        ifindex: FFI.CData,
        peer_ifindex: FFI.CData,
        mac: FFI.CData,
        err: FFI.CData,
    ) -> int: ...
    def pf_tracker_open(self, out: FFI.CData, pid: int, mode: int, err: FFI.CData) -> int: ...
    def pf_tracker_close(self, tracker: FFI.CData) -> None: ...
    def pf_tracker_mode(self, tracker: FFI.CData) -> int: ...
    def pf_tracker_reason(self, tracker: FFI.CData) -> FFI.CData: ...
    def pf_tracker_stopped_ns(self, tracker: FFI.CData) -> int: ...
    def pf_tracker_round(self, tracker: FFI.CData, out: FFI.CData, err: FFI.CData) -> int: ...
    def pf_tracker_final(self, tracker: FFI.CData, out: FFI.CData, err: FFI.CData) -> int: ...
    def pf_tracker_forget(self, tracker: FFI.CData) -> None: ...
    def pf_tracker_note(
        self,
        tracker: FFI.CData,
        runs: FFI.CData,
        run_count: int,
        pages: FFI.CData,
        states: FFI.CData,
    ) -> None: ...
    def pf_same_memory(self, one: int, other: int, err: FFI.CData) -> int: ...
    def pf_read_pages(
        self,
        pid: int,
        runs: FFI.CData,
        run_count: int,
        buffer: FFI.CData,
        buffer_bytes: int,
        states: FFI.CData,
        err: FFI.CData,
    ) -> int: ...
    def pf_store_create(
        self, out: FFI.CData, directory: bytes, quota_bytes: int, err: FFI.CData
    ) -> int: ...
    def pf_store_release(self, store: FFI.CData) -> None: ...
    def pf_store_read_counts(self, store: FFI.CData, out: FFI.CData, err: FFI.CData) -> int: ...
    def pf_images_add_left_out(
        self, images: bytes, path: bytes, pid: int, image_pid: int, pages: FFI.CData, err: FFI.CData
    ) -> int: ...
    def pf_images_shorten(self, images: bytes, err: FFI.CData) -> int: ...
    def pf_images_view(self, images: bytes, view: bytes, err: FFI.CData) -> int: ...
    def pf_store_seal(
        self, store: FFI.CData, image_dir: FFI.CData | bytes, out: FFI.CData, err: FFI.CData
    ) -> int: ...
    def pf_sender_open(self, out: FFI.CData, options: FFI.CData, err: FFI.CData) -> int: ...
    def pf_sender_connect(
        self, sender: FFI.CData, address: bytes, port: int, err: FFI.CData
    ) -> int: ...
    def pf_sender_send_runs(
        self,
        sender: FFI.CData,
        host_pid: int,
        image_pid: int,
        runs: FFI.CData,
        count: int,
        err: FFI.CData,
    ) -> int: ...
    def pf_sender_send_part(
        self,
        sender: FFI.CData,
        name: bytes,
        size: int,
        offset: int,
        data: bytes,
        data_bytes: int,
        err: FFI.CData,
    ) -> int: ...
    def pf_sender_send_directory(
        self, sender: FFI.CData, path: bytes, file_bytes: FFI.CData, err: FFI.CData
    ) -> int: ...
    def pf_sender_forget_process(
        self, sender: FFI.CData, image_pid: int, err: FFI.CData
    ) -> int: ...
    def pf_sender_flush(self, sender: FFI.CData, out: FFI.CData, err: FFI.CData) -> int: ...
    def pf_sender_read_progress(self, sender: FFI.CData, out: FFI.CData) -> None: ...
    def pf_sender_cancel(self, sender: FFI.CData) -> None: ...
    def pf_sender_close(self, sender: FFI.CData) -> None: ...
    def pf_receiver_start(
        self,
        out: FFI.CData,
        address: bytes,
        port: FFI.CData,
        tls: FFI.CData,
        timeout_ms: int,
        err: FFI.CData,
    ) -> int: ...
    def pf_receiver_expect(
        self,
        receiver: FFI.CData,
        token: bytes,
        peer_name: FFI.CData | bytes,
        store: FFI.CData,
        err: FFI.CData,
    ) -> int: ...
    def pf_receiver_forget(self, receiver: FFI.CData, token: bytes) -> None: ...
    def pf_receiver_read_trouble(
        self, receiver: FFI.CData, out: FFI.CData, out_bytes: int
    ) -> None: ...
    def pf_receiver_close(self, receiver: FFI.CData) -> None: ...
    def pf_page_server_run(
        self, sender: FFI.CData, socket: int, image_bytes: FFI.CData, err: FFI.CData
    ) -> int: ...
    def pf_tree_scan(
        self,
        root_fd: int,
        flags: int,
        exclude: bytes,
        exclude_bytes: int,
        entries_max: int,
        old: bytes | FFI.CData,
        old_bytes: int,
        settled_before_ns: int,
        out: FFI.CData,
        err: FFI.CData,
    ) -> int: ...
    def pf_tree_scan_free(self, scan: FFI.CData) -> None: ...
    def pf_tree_compare(
        self,
        old: bytes,
        old_bytes: int,
        new: bytes,
        new_bytes: int,
        flags: int,
        inodes: FFI.CData,
        inode_count: int,
        out: FFI.CData,
        err: FFI.CData,
    ) -> int: ...
    def pf_tree_pairs_free(self, pairs: FFI.CData) -> None: ...
    def pf_tree_summary(
        self, records: bytes, record_bytes: int, out: FFI.CData, err: FFI.CData
    ) -> int: ...
    def pf_tree_read_blocks(
        self,
        fd: int,
        offset: int,
        buffer: FFI.CData,
        buffer_bytes: int,
        seed: int,
        hashes: FFI.CData,
        err: FFI.CData,
    ) -> int: ...
    def pf_tree_punch(self, fd: int, offset: int, hole_bytes: int, err: FFI.CData) -> int: ...

ffi: FFI
lib: Lib
