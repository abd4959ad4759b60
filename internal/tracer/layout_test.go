// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"reflect"
	"testing"

	"github.com/cilium/ebpf/btf"

	"afterfin/bpf"
	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// members gives offset and size of each member of a struct in the object's BTF.
func members(t *testing.T, name string) (size uint32, offsets map[string][2]uint32) {
	t.Helper()
	spec, err := bpf.LoadAfterfin()
	if err != nil {
		t.Fatal(err)
	}
	var s *btf.Struct
	if err := spec.Types.TypeByName(name, &s); err != nil {
		t.Fatalf("BTF of the object: %v", err)
	}
	offsets = make(map[string][2]uint32)
	for _, m := range s.Members {
		n, err := btf.Sizeof(m.Type)
		if err != nil {
			t.Fatal(err)
		}
		offsets[m.Name] = [2]uint32{m.Offset.Bytes(), uint32(n)}
	}
	return s.Size, offsets
}

// put writes n into a member, in the object's own layout.
func put(raw []byte, at [2]uint32, n uint64) {
	switch at[1] {
	case 1:
		raw[at[0]] = byte(n)
	case 2:
		binary.LittleEndian.PutUint16(raw[at[0]:], uint16(n))
	case 4:
		binary.LittleEndian.PutUint32(raw[at[0]:], uint32(n))
	case 8:
		binary.LittleEndian.PutUint64(raw[at[0]:], n)
	default:
		for i := range at[1] {
			raw[at[0]+i] = byte(n) + byte(i)
		}
	}
}

// Every member of the C struct, put in its place by BTF, comes out of the Go
// decoder under its own name.
func TestTransitionLayout(t *testing.T) {
	size, at := members(t, "af_transition")
	raw := make([]byte, size)
	values := map[string]uint64{
		"kind": 1, "netns": 2, "mono_ns": 3, "entered_ns": 4, "cookie": 5, "inode": 6, "owner_start_ns": 7,
		"local": 10, "remote": 40, "owner_comm": 'a', "owner_pid": 8, "lport": 9, "rport": 10, "sk_err": 11,
		"from": 1, "to": 8, "how": 3, "side": 2, "accepted": 2, "cause": 12, "restarts": 13, "entered_bound": 1, "bound": 1, "pad": 0,
	}
	for name := range at {
		if _, ok := values[name]; !ok {
			t.Errorf("member %s of the C struct is not decoded", name)
		}
		put(raw, at[name], values[name])
	}
	var got event.Transition
	if err := event.DecodeTransition(raw, &got); err != nil {
		t.Fatal(err)
	}
	local, remote := got.Tuple.Local.Addr().As16(), got.Tuple.Remote.Addr().As16()
	for name, pair := range map[string][2]any{
		"netns": {got.NetNS, uint32(2)}, "mono_ns": {int64(got.Mono), int64(3)}, "entered_ns": {int64(got.Entered), int64(4)},
		"cookie": {got.Cookie, uint64(5)}, "inode": {got.Inode, uint64(6)}, "owner_start_ns": {int64(got.Owner.Start), int64(7)},
		"local": {local[0], byte(10)}, "local end": {local[15], byte(25)}, "remote": {remote[0], byte(40)}, "remote end": {remote[15], byte(55)},
		"owner_comm": {string(got.Owner.Comm[:]), "abcdefghijklmnop"}, "owner_pid": {got.Owner.PID, uint32(8)},
		"lport": {got.Tuple.Local.Port(), uint16(9)}, "rport": {got.Tuple.Remote.Port(), uint16(10)}, "sk_err": {got.SkErr, uint16(11)},
		"from": {got.From, tcp.Established}, "to": {got.To, tcp.CloseWait}, "how": {got.Owner.How, event.HowClose},
		"side": {got.Side, event.SideAccept}, "accepted": {got.Accepted, event.AcceptedYes}, "cause": {got.Cause, event.CauseLinger2}, "restarts": {got.Restarts, uint16(13)},
		"entered_bound": {got.AtLeast, true}, "bound": {got.Bound, true},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: decoded %v, put %v", name, pair[0], pair[1])
		}
	}
}

func TestHolderLayout(t *testing.T) {
	size, at := members(t, "af_holder")
	if size != event.HolderSize {
		t.Fatalf("struct af_holder has %d bytes, Go reads %d", size, event.HolderSize)
	}
	raw := make([]byte, size)
	for name, n := range map[string]uint64{"kind": 2, "cookie": 4, "start_ns": 5, "comm": 'a', "pid": 6} {
		if _, ok := at[name]; !ok {
			t.Fatalf("no member %s", name)
		}
		put(raw, at[name], n)
	}
	if len(at) != 5 {
		t.Errorf("%d members, want 5", len(at))
	}
	var got event.Holder
	if err := event.DecodeHolder(raw, &got); err != nil {
		t.Fatal(err)
	}
	want := event.Holder{Cookie: 4, Owner: event.Owner{PID: 6, Start: 5, How: event.HowFD}}
	copy(want.Owner.Comm[:], "abcdefghijklmnop")
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// The words of wire.h are the words of package event.
func TestEnums(t *testing.T) {
	spec, err := bpf.LoadAfterfin()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]map[string]uint64{
		"af_how": {
			"AF_HOW_UNKNOWN": uint64(event.HowUnknown), "AF_HOW_CONNECT": uint64(event.HowConnect), "AF_HOW_ACCEPT": uint64(event.HowAccept),
			"AF_HOW_CLOSE": uint64(event.HowClose), "AF_HOW_FD": uint64(event.HowFD), "AF_HOW_LISTEN": uint64(event.HowListen),
		},
		"af_cause": {
			"AF_CAUSE_NONE": uint64(event.CauseNone), "AF_CAUSE_UNKNOWN": uint64(event.CauseUnknown), "AF_CAUSE_EXPIRED": uint64(event.CauseExpired),
			"AF_CAUSE_REUSED_CONNECT": uint64(event.CauseReusedConnect), "AF_CAUSE_REUSED_SYN": uint64(event.CauseReusedSYN),
			"AF_CAUSE_NETNS_EXIT": uint64(event.CauseNetNSExit), "AF_CAUSE_DESTROYED": uint64(event.CauseDestroyed),
			"AF_CAUSE_RESET": uint64(event.CauseReset), "AF_CAUSE_LINGER": uint64(event.CauseLinger), "AF_CAUSE_UNREAD_DATA": uint64(event.CauseUnreadData),
			"AF_CAUSE_TIMEOUT": uint64(event.CauseTimeout), "AF_CAUSE_ABORTED": uint64(event.CauseAborted),
			"AF_CAUSE_LINGER2": uint64(event.CauseLinger2), "AF_CAUSE_OVERFLOW": uint64(event.CauseOverflow),
			"AF_CAUSE_DISCONNECTED": uint64(event.CauseDisconnected), "AF_CAUSE_LISTENER_CLOSED": uint64(event.CauseListenerClosed),
			"AF_CAUSE_NO_PORT": uint64(event.CauseNoPort), "AF_CAUSES": event.Causes,
		},
		"af_side": {
			"AF_SIDE_UNKNOWN": uint64(event.SideUnknown), "AF_SIDE_CONNECT": uint64(event.SideConnect), "AF_SIDE_ACCEPT": uint64(event.SideAccept), "AF_SIDES": event.Sides,
		},
		"af_accepted": {
			"AF_ACCEPTED_UNKNOWN": uint64(event.AcceptedUnknown), "AF_ACCEPTED_NO": uint64(event.AcceptedNo), "AF_ACCEPTED_YES": uint64(event.AcceptedYes),
		},
	} {
		var e *btf.Enum
		if err := spec.Types.TypeByName(name, &e); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, v := range e.Values {
			if got, ok := want[v.Name]; !ok || got != v.Value {
				t.Errorf("%s = %d, Go has %d (known: %v)", v.Name, v.Value, got, ok)
			}
		}
	}
}

func TestSiteLayout(t *testing.T) {
	size, at := members(t, "af_site")
	raw := make([]byte, size)
	put(raw, at["kind"], 3)
	put(raw, at["call"], 2)
	put(raw, at["cookie"], 5)
	put(raw, at["stack"], 8)
	put(raw, at["owner_pid"], 6)
	put(raw, at["owner_start_ns"], 7)
	want := event.Site{Cookie: 5, PID: 6, Start: 7, Call: event.SideAccept}
	if got, key, err := event.DecodeSite(raw); err != nil || !reflect.DeepEqual(got, want) || key != 8 || !event.IsSite(raw) {
		t.Errorf("%+v, key %d, %v; want %+v", got, key, err, want)
	}
	if _, _, err := event.DecodeSite(raw[:size-1]); !errors.Is(err, event.ErrSize) {
		t.Errorf("too short: %v", err)
	}
	if size, at := members(t, "stack"); size != 8*siteFrames || at["ip"][0] != 0 {
		t.Errorf("a stack has %d bytes", size)
	}
}

func TestSliceLayout(t *testing.T) {
	size, at := members(t, "af_slice")
	raw := make([]byte, size)
	put(raw, at["kind"], 4)
	put(raw, at["size"], 3)
	put(raw, at["cookie"], 5)
	put(raw, at["owner_pid"], 6)
	put(raw, at["owner_start_ns"], 7)
	put(raw, at["call"], 1)
	put(raw, at["base"], 8)
	put(raw, at["pc"], 9)
	binary.LittleEndian.PutUint64(raw[at["regs"][0]+8*31:], 10)
	copy(raw[at["bytes"][0]:], "abc")
	want := event.Slice{Cookie: 5, PID: 6, Start: 7, Call: event.SideConnect, Base: 8, PC: 9, Stack: []byte("abc")}
	want.Regs[31] = 10
	if got, err := event.DecodeSlice(raw); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	put(raw, at["size"], uint64(at["bytes"][1]))
	if got, err := event.DecodeSlice(raw); err != nil || len(got.Stack) != int(at["bytes"][1]) {
		t.Errorf("%d bytes, %v", len(got.Stack), err)
	}
	put(raw, at["size"], uint64(at["bytes"][1])+1)
	if _, err := event.DecodeSlice(raw); !errors.Is(err, event.ErrSize) {
		t.Errorf("too many bytes: %v", err)
	}
}

func TestHasHelper(t *testing.T) {
	types := NewTypes()
	for name, want := range map[string]bool{"BPF_FUNC_map_lookup_elem": true, "BPF_FUNC_task_pt_regs": true, "BPF_FUNC_no_such": false} {
		if has, err := types.hasHelper(name); has != want || err != nil {
			t.Errorf("%s: %v, %v", name, has, err)
		}
	}
}

func TestPortLayout(t *testing.T) {
	size, at := members(t, "af_port")
	raw := make([]byte, size)
	values := map[string]uint64{
		"kind": 6, "netns": 2, "cookie": 3, "expires": 4, "jiffies": 5, "mono_ns": 6, "local": 10, "remote": 40, "ts_recent_stamp": 7,
		"entry_stamp": 8, "lport": 9, "rport": 10, "state": 6, "mini": 1, "taken": 1, "reuse": 1, "pad": 0,
	}
	for name := range at {
		if _, ok := values[name]; !ok {
			t.Errorf("member %s of the C struct is not decoded", name)
		}
		put(raw, at[name], values[name])
	}
	address := func(from byte) netip.Addr {
		var a [16]byte
		for i := range a {
			a[i] = from + byte(i)
		}
		return netip.AddrFrom16(a)
	}
	want := event.Port{
		NetNS: 2, Cookie: 3, Expires: 4, Jiffies: 5, Mono: 6, RecentStamp: 7, EntryStamp: 8,
		Tuple: tcp.Tuple{Local: netip.AddrPortFrom(address(10), 9), Remote: netip.AddrPortFrom(address(40), 10)},
		State: tcp.TimeWait, Mini: true, Taken: true, Reuse: true,
	}
	if got, err := event.DecodePort(raw); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if _, err := event.DecodePort(raw[1:]); err == nil {
		t.Error("too short")
	}
	for _, flag := range []string{"mini", "taken", "reuse"} { // each by itself
		one := bytes.Clone(raw)
		for _, other := range []string{"mini", "taken", "reuse"} {
			put(one, at[other], 0)
		}
		put(one, at[flag], 1)
		got, err := event.DecodePort(one)
		if on := map[string]bool{"mini": got.Mini, "taken": got.Taken, "reuse": got.Reuse}; err != nil || !on[flag] {
			t.Errorf("%s alone: %+v, %v", flag, got, err)
		}
	}
}
