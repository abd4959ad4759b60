// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"afterfin/internal/ports"
	"afterfin/internal/recorder"
)

// recorded answers leaks, timewait and ports. What it tells, the goroutine of record puts together.
func (s *service) recorded(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+recorder.AskLeaks, s.tells(ctx, func(*http.Request) (any, error) {
		if err := s.feed.Drain(s.follower.apply); err != nil {
			return nil, err
		}
		book, err := s.follower.places.settled()
		if err != nil {
			return nil, err
		}
		lost, err := s.feed.Lost()
		return recorder.NewLeaks(s.follower.memory, book, s.follower.seen, lost), err
	}))
	mux.HandleFunc("GET "+recorder.AskTimeWait, s.tells(ctx, s.tellTimeWait))
	mux.HandleFunc("GET "+recorder.AskPorts, s.tells(ctx, s.tellPorts))
	return mux
}

// errBadRequest is the asker's fault.
var errBadRequest = errors.New("bad request")

// tells has the answer made by the goroutine of record, and written by this one.
func (s *service) tells(ctx context.Context, answer func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		type result struct {
			body []byte
			err  error
		}
		made := make(chan result, 1)
		ask := func() {
			v, err := answer(r)
			var body []byte
			if err == nil {
				body, err = json.Marshal(v) // before anything of it changes
			}
			made <- result{body, err}
		}
		select {
		case s.asks <- ask:
		case <-ctx.Done():
			http.Error(w, "serve ends", http.StatusServiceUnavailable)
			return
		case <-r.Context().Done():
			return
		}
		switch got := <-made; {
		case errors.Is(got.err, errBadRequest):
			http.Error(w, got.err.Error(), http.StatusBadRequest)
		case got.err != nil:
			http.Error(w, got.err.Error(), http.StatusInternalServerError)
		default:
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(got.body) // whoever asked has gone
		}
	}
}

func (s *service) tellTimeWait(r *http.Request) (any, error) {
	since, err := time.ParseDuration(r.FormValue("since"))
	if err != nil || since < 0 {
		return nil, fmt.Errorf("%w: since=%q is no duration", errBadRequest, r.FormValue("since"))
	}
	tr := s.feed.Tracer()
	out := &recorder.TimeWait{Window: s.history.Last(since)}
	if out.Length, err = tr.TimeWaitLength(); err != nil {
		return nil, err
	}
	if out.MapMemory, err = tr.MapMemory(); err != nil {
		return nil, err
	}
	out.Lost, err = s.feed.Lost()
	return out, err
}

// portsWindow is what rates of connect() are over.
const portsWindow = 30 * time.Second

func (s *service) tellPorts(*http.Request) (any, error) {
	p := porter{env: s.env, cfg: s.options.leaks.feed}
	var l ports.Look
	if w := s.history.Last(portsWindow); w != nil {
		l.While, l.Callers = w.Took, w.Callers
	}
	if err := p.look(s.feed, l); err != nil {
		return nil, err
	}
	lost, err := s.feed.Lost()
	return &recorder.Ports{Took: l.While, Spaces: p.report.Spaces, Unreachable: p.report.Unreachable,
		Length: p.report.Length, Measured: p.report.Measured, Lost: lost}, err
}
