/** What went wrong, as far as a caller must tell it apart. Every error of this folder is one of these, or a TypeError for a wrong argument. */

/**
 * The daemon's own answer to a call. Numbers: libvirt's <libvirt/virterror.h>; they never change, new ones are appended.
 * The call reached the daemon and is over.
 */
export class LibvirtError extends Error {
  override readonly name = 'LibvirtError'
  /** what kind of error, as in `ErrorCode` */
  readonly code: number
  /** which part of libvirt raised it (virErrorDomain), e.g. 10 for QEMU */
  readonly domain: number
  /** 1 warning, 2 error */
  readonly level: number
  /** the call that failed */
  readonly procedure: string
  constructor(procedure: string, e: { code: number; domain: number; level: number; message: string | null }) {
    super(
      e.message ?? `libvirt refused ${procedure} with code ${e.code} (${errorCodeName(e.code)}) and gave no message.`,
    )
    this.code = e.code
    this.domain = e.domain
    this.level = e.level
    this.procedure = procedure
  }
}

export type ConnectionEnd =
  /** the socket or ssh could not be opened; nothing was ever sent */
  | 'unreachable'
  /** the daemon wants an authentication that this client cannot do, or refused it */
  | 'authentication'
  /** the other side closed or reset the connection */
  | 'lost'
  /** the daemon no longer answers: keepalives, or every place of the request window, are overdue */
  | 'unresponsive'
  /** the daemon sent what this client does not know, so nothing it says afterwards can be trusted */
  | 'protocol'
  /** we closed it */
  | 'closed'

/** There is no connection (any more). The object it was raised on is of no further use; connect anew. */
export class ConnectionError extends Error {
  override readonly name = 'ConnectionError'
  readonly reason: ConnectionEnd
  /** The call had been written to the daemon: whether it was carried out is not known. Read the state again before repeating it. */
  readonly sent: boolean
  constructor(reason: ConnectionEnd, message: string, o: { sent?: boolean; cause?: unknown } = {}) {
    super(message, o.cause === undefined ? undefined : { cause: o.cause })
    this.reason = reason
    this.sent = o.sent ?? false
  }
}

/** A call was not answered within its deadline. The connection lives on; a late answer is dropped. */
export class DeadlineError extends Error {
  override readonly name = 'DeadlineError'
  readonly procedure: string
  readonly deadline_ms: number
  /** as for ConnectionError: if true, the daemon may still carry it out */
  readonly sent: boolean
  constructor(procedure: string, deadline_ms: number, sent: boolean) {
    super(
      sent
        ? `libvirt has not answered ${procedure} within ${deadline_ms} ms; it may still carry it out. Read the state again before repeating the call.`
        : `${procedure} waited ${deadline_ms} ms for its turn behind other calls and was never sent to libvirt.`,
    )
    this.procedure = procedure
    this.deadline_ms = deadline_ms
    this.sent = sent
  }
}

/** More events came than the reader took, and some are lost: list everything anew. */
export class EventsLostError extends Error {
  override readonly name = 'EventsLostError'
  constructor(limit: number) {
    super(
      `More than ${limit} libvirt events waited to be read, and the newer ones were dropped. List the domains again.`,
    )
  }
}

/** Bytes that are not what the protocol says, or values that it cannot carry. Ends the connection when the daemon sent them. */
export class XdrError extends Error {
  override readonly name = 'XdrError'
}

/** Codes that callers decide by. Source: <libvirt/virterror.h>, enum virErrorNumber. */
export const ErrorCode = {
  internal: 1,
  no_support: 3,
  no_connect: 5,
  invalid_argument: 8,
  /** also: the name exists with another uuid */
  operation_failed: 9,
  xml: 27,
  domain_exists: 28,
  denied: 29,
  /** XML that is not well formed, and where */
  xml_detail: 35,
  network_exists: 37,
  system: 38,
  rpc: 39,
  no_domain: 42,
  no_network: 43,
  authentication_failed: 45,
  no_pool: 49,
  no_volume: 50,
  /** not in this state: already running, not running */
  operation_invalid: 55,
  config_unsupported: 67,
  operation_timeout: 68,
  argument_unsupported: 74,
  operation_aborted: 78,
  authentication_cancelled: 79,
  no_metadata: 80,
  operation_unsupported: 84,
  agent_unresponsive: 86,
  resource_busy: 87,
  access_denied: 88,
  volume_exists: 90,
  invalid_schema: 92,
  authentication_unavailable: 94,
  agent_unsynced: 97,
} as const

const names = new Map(Object.entries(ErrorCode).map(([name, code]) => [code as number, name]))

/** `no_domain` for 42; `code_123` for numbers that have no name here. */
export function errorCodeName(code: number): string {
  return names.get(code) ?? `code_${code}`
}

/** @returns true for a LibvirtError that has one of these codes */
export function isLibvirtError(error: unknown, ...codes: readonly (keyof typeof ErrorCode)[]): error is LibvirtError {
  return error instanceof LibvirtError && (codes.length === 0 || codes.some((c) => ErrorCode[c] === error.code))
}
