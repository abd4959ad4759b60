// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"afterfin/internal/owner"
)

// Ignore is what the user knows of and does not want to read about. A nil Ignore
// ignores nothing.
type Ignore struct{ rules []rule }

// rule holds if all that is set in it does.
type rule struct {
	comm   string
	remote netip.Prefix
	port   uint16 // at either end
}

// Add takes one rule: comm=NAME, remote=ADDRESS[/BITS][:PORT] (IPv6 with a port in brackets),
// port=N, several of them separated by commas or blanks; all must hold.
func (i *Ignore) Add(text string) error {
	var r rule
	for part := range strings.FieldsFuncSeq(text, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' }) {
		if err := r.set(part); err != nil {
			return err
		}
	}
	if r == (rule{}) {
		return fmt.Errorf("%q says nothing: comm=, remote=, port=", text)
	}
	i.rules = append(i.rules, r)
	return nil
}

func (r *rule) set(part string) error {
	key, value, _ := strings.Cut(part, "=")
	switch {
	case key == "comm" && value != "":
		return r.setComm(value)
	case key == "port":
		return r.setPort(value)
	case key == "remote":
		return r.setRemote(value)
	}
	return fmt.Errorf("%q is none of comm=NAME, remote=ADDRESS[/BITS][:PORT], port=N", part)
}

func (r *rule) setComm(name string) error {
	switch {
	case r.comm != "":
		return fmt.Errorf("comm=%s: there is one already, each rule has at most one", name)
	case len(name) > 15:
		return fmt.Errorf("comm=%s: the kernel keeps 15 bytes of a name: %q", name, name[:15])
	}
	r.comm = name
	return nil
}

func (r *rule) setPort(text string) error {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("port %q is not a number from 1 to 65535", text)
	}
	if r.port != 0 {
		return fmt.Errorf("port %d: there is one already, each rule has at most one", n)
	}
	r.port = uint16(n)
	return nil
}

func (r *rule) setRemote(text string) error {
	if r.remote.IsValid() {
		return fmt.Errorf("remote %s: there is one already, each rule has at most one", text)
	}
	network, err := parseNetwork(text)
	if err != nil { // then with a port
		at := max(0, strings.LastIndexByte(text, ':'))
		if network, err = parseNetwork(text[:at]); err != nil {
			return fmt.Errorf("remote %q is no ADDRESS[/BITS][:PORT]", text)
		}
		if err := r.setPort(text[at+1:]); err != nil {
			return err
		}
	}
	r.remote = network
	return nil
}

// parseNetwork takes ADDRESS[/BITS], IPv6 also in brackets; v4-mapped is IPv4, as in every
// tuple.
func parseNetwork(text string) (netip.Prefix, error) {
	address, bits, subnet := strings.Cut(text, "/")
	if inside, ok := strings.CutPrefix(address, "["); ok {
		if address, ok = strings.CutSuffix(inside, "]"); !ok {
			return netip.Prefix{}, fmt.Errorf("%q: bracket missing", text)
		}
	}
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}, err
	}
	n := addr.BitLen()
	if subnet {
		if n, err = strconv.Atoi(bits); err != nil {
			return netip.Prefix{}, err
		}
	}
	if addr.Is4In6() {
		addr, n = addr.Unmap(), n-96
	}
	return addr.WithZone("").Prefix(n)
}

// Read takes a rule from each line; empty ones and those that begin with # are left out.
// The error names the line.
func (i *Ignore) Read(from io.Reader) error {
	lines := bufio.NewScanner(from)
	n := 1
	for ; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		if err := i.Add(text); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("line %d: %w", n, err)
	}
	return nil
}

// Leak tells whether the user knows of it.
func (i *Ignore) Leak(l *Leak) bool {
	return i.any(func(r *rule) bool {
		t := l.Tuple
		return r.holds(l.Owner()) && (!r.remote.IsValid() || r.remote.Contains(t.Remote.Addr())) &&
			(r.port == 0 || r.port == t.Local.Port() || r.port == t.Remote.Port())
	})
}

// Dead is Leak for a descriptor whose connection is gone. A remote end that was not
// seen is none that the user knows of.
func (i *Ignore) Dead(d *Dead) bool {
	return i.any(func(r *rule) bool {
		return r.holds(d.Process) && (!r.remote.IsValid() || r.remote.Contains(d.Remote.Addr())) &&
			(r.port == 0 || r.port == d.Local.Port() || r.port == d.Remote.Port())
	})
}

func (r *rule) holds(p *owner.Process) bool { return r.comm == "" || p != nil && p.Comm == r.comm }

func (i *Ignore) any(holds func(*rule) bool) bool {
	if i == nil {
		return false
	}
	for n := range i.rules {
		if holds(&i.rules[n]) {
			return true
		}
	}
	return false
}
