// Package guard is the error handler for net/http with pgx: handlers return their error, within one transaction a request.
package guard

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Handler does a request's work in tx.
type Handler func(w http.ResponseWriter, r *http.Request, tx pgx.Tx) error

// Within runs each request in one transaction. Nothing may be written to w before the work is done: Handler returns, then it is committed.
func Within(pool *pgxpool.Pool, work Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer := &held{header: http.Header{}, status: http.StatusOK}
		// Rolled back before this returns an error.
		err := pgx.BeginFunc(r.Context(), pool, func(tx pgx.Tx) error { return work(answer, r, tx) })
		switch nonce := nonceOf(err); {
		case err == nil:
			answer.to(w)
		case nonce != "":
			w.Header().Set("domicile-refused", nonce)
			w.WriteHeader(http.StatusMisdirectedRequest)
		default:
			http.Error(w, "failed", http.StatusInternalServerError)
		}
	}
}

// nonceOf is the nonce of the guard's refusal, if err is one.
func nonceOf(err error) string {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || (refused.Code != "DM421" && refused.Code != "40001") {
		return ""
	}
	var detail struct{ Nonce string }
	if json.Unmarshal([]byte(refused.Detail), &detail) != nil {
		return ""
	}
	return detail.Nonce
}

// held is an answer that is not sent before its transaction is committed.
type held struct {
	header http.Header
	status int
	body   []byte
}

func (h *held) Header() http.Header { return h.header }

func (h *held) WriteHeader(status int) { h.status = status }

func (h *held) Write(bytes []byte) (int, error) {
	h.body = append(h.body, bytes...)
	return len(bytes), nil
}

func (h *held) to(w http.ResponseWriter) {
	for name, values := range h.header {
		w.Header()[name] = values
	}
	w.WriteHeader(h.status)
	_, _ = w.Write(h.body)
}
