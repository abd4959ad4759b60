// SPDX-License-Identifier: Apache-2.0

package survey

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
)

// Orphans are sockets that no process holds and that the kernel still closes: in
// FIN_WAIT1, CLOSING, LAST_ACK, or in FIN_WAIT2 with a socket of full size. Beyond Max
// it resets them at once.
type Orphans struct{ Count, Max int } // of all network namespaces together; -1 and 0: not shown

// HostOrphans counts them.
func HostOrphans() (o Orphans, err error) {
	raw, err := os.ReadFile("/proc/net/sockstat")
	if errors.Is(err, fs.ErrNotExist) { // procfs mounted with subset=pid
		return Orphans{Count: -1}, nil
	}
	if err != nil {
		return o, fmt.Errorf("count orphans: %w", err)
	}
	if o.Count, err = parseOrphans(raw); err != nil {
		return o, err
	}
	raw, err = os.ReadFile("/proc/sys/net/ipv4/tcp_max_orphans")
	if err != nil { // not shown in another netns than the first
		return o, nil
	}
	o.Max, err = strconv.Atoi(string(bytes.TrimSpace(raw)))
	return o, err
}

// parseOrphans reads "TCP: inuse 5 orphan 0 tw 2 alloc 7 mem 1".
func parseOrphans(sockstat []byte) (n int, err error) {
	_, rest, ok := bytes.Cut(sockstat, []byte("TCP: inuse "))
	var inuse int
	if ok {
		_, err = fmt.Sscanf(string(rest), "%d orphan %d", &inuse, &n)
	}
	if !ok || err != nil {
		return 0, fmt.Errorf("count orphans: no TCP in %q", sockstat)
	}
	return n, nil
}
