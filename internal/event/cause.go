// SPDX-License-Identifier: Apache-2.0

package event

// Cause tells why a socket or its TIME_WAIT ended (enum af_cause in wire.h).
type Cause uint8

// CauseNone: closed in order, or not a change to CLOSE. CauseUnknown: none of
// those below could be proven.
const (
	CauseNone Cause = iota
	CauseUnknown
	CauseExpired       // TIME_WAIT, or an orphan's FIN_WAIT2, was over
	CauseReusedConnect // a connect() took the tuple
	CauseReusedSYN     // a SYN came in for the tuple
	CauseNetNSExit
	CauseDestroyed // ss -K
	CauseReset     // a RST came in, or a segment that draws one
	CauseLinger    // SO_LINGER with 0 s
	CauseUnreadData
	CauseTimeout
	CauseAborted
	CauseLinger2  // TCP_LINGER2 below 0
	CauseOverflow // tcp_max_tw_buckets was reached
	CauseDisconnected
	CauseListenerClosed // in the accept queue
	CauseNoPort         // connect() found no port: EADDRNOTAVAIL
)

var causes = [...]string{"", "unknown", "expired", "reused_connect", "reused_syn", "netns_exit", "destroyed", "reset",
	"linger", "unread_data", "timeout", "aborted", "linger2", "overflow", "disconnected", "listener_closed", "no_port"}

// String is the word used in every view; empty for CauseNone.
func (c Cause) String() string {
	if int(c) < len(causes) {
		return causes[c]
	}
	return causes[CauseUnknown]
}

// RestartsUnknown stands in Transition.Restarts where these hooks cannot tell.
const RestartsUnknown = 0xffff
