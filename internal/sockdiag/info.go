// SPDX-License-Identifier: Apache-2.0

package sockdiag

import (
	"bytes"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/event"
)

// Attributes of linux/inet_diag.h. The kernel adds the second one unasked, where
// there is an upper layer protocol.
const (
	attrInfo    = 2  // INET_DIAG_INFO: struct tcp_info
	attrULPInfo = 19 // INET_DIAG_ULP_INFO
	attrULPName = 1  // INET_ULP_INFO_NAME, inside it
)

const attrHeader = 4 // struct nlattr

// infoSize is up to tcpi_data_segs_out, which is there since 4.6.
const infoSize = 160

var ulps = map[string]event.ULP{"tls": event.ULPTLS, "mptcp": event.ULPMPTCP}

// decodeInfo reads the attributes of one socket. The error wraps event.ErrSize.
func decodeInfo(raw []byte) (info event.Info, err error) {
	for len(raw) >= attrHeader {
		var a attribute
		if a, raw, err = nextAttribute(raw); err != nil {
			return event.Info{}, err
		}
		switch {
		case a.kind == attrInfo && len(a.value) >= infoSize: // it was shorter once
			info.Known = true
			info.RTO = time.Duration(native.Uint32(a.value[8:])) * time.Microsecond
			info.LastDataSent = milliseconds(a.value[44:])
			info.LastDataRecv = milliseconds(a.value[52:])
			info.LastAckRecv = milliseconds(a.value[56:])
			info.DataSegsOut = native.Uint32(a.value[156:])
		case a.kind == attrULPInfo:
			if info.ULP, err = decodeULP(a.value); err != nil {
				return event.Info{}, err
			}
		}
	}
	return info, nil
}

func decodeULP(raw []byte) (event.ULP, error) {
	for len(raw) >= attrHeader {
		a, rest, err := nextAttribute(raw)
		if err != nil {
			return event.ULPNone, err
		}
		if a.kind == attrULPName {
			return ulp(a.value), nil
		}
		raw = rest
	}
	return event.ULPOther, nil
}

func ulp(name []byte) event.ULP {
	if known, ok := ulps[string(bytes.TrimRight(name, "\x00"))]; ok {
		return known
	}
	return event.ULPOther
}

func milliseconds(raw []byte) time.Duration {
	return time.Duration(native.Uint32(raw)) * time.Millisecond
}

// attribute is one struct nlattr; value points into the message.
type attribute struct {
	kind  uint16
	value []byte
}

func nextAttribute(raw []byte) (a attribute, rest []byte, err error) {
	size := int(native.Uint16(raw))
	if size < attrHeader || size > len(raw) {
		return a, nil, fmt.Errorf("attribute of %d bytes in %d: %w", size, len(raw), event.ErrSize)
	}
	a.kind = native.Uint16(raw[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
	a.value = raw[attrHeader:size]
	return a, raw[min(align(size), len(raw)):], nil
}
