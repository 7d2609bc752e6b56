import type { XdrReader, XdrWriter } from './xdr.ts'

/** One call of the protocol: its number, what it takes and what it gives. */
export interface Procedure<A extends readonly unknown[], R> {
  /** REMOTE_PROC_… */
  number: number
  name: string
  /** It may work on disks, start or stop a process, or wait for a guest: the longer of the two deadlines applies. */
  slow: boolean
  write(w: XdrWriter, ...args: A): void
  read(r: XdrReader): R
}

export function procedure<A extends readonly unknown[], R>(
  number: number,
  name: string,
  write: (w: XdrWriter, ...args: A) => void,
  read: (r: XdrReader) => R,
): Procedure<A, R> {
  return { number, name, slow: false, write, read }
}

export function slowProcedure<A extends readonly unknown[], R>(
  number: number,
  name: string,
  write: (w: XdrWriter, ...args: A) => void,
  read: (r: XdrReader) => R,
): Procedure<A, R> {
  return { number, name, slow: true, write, read }
}

/** for calls that take or give nothing */
export const nothing = (): void => {}

export interface CallOptions {
  /** from the call to its answer, waiting for its turn included; 0 waits for ever. Default: the connection's */
  deadline_ms?: number
  /** gives up waiting for the answer, with the signal's reason; what was sent is not taken back */
  signal?: AbortSignal
}

export type Call = <A extends readonly unknown[], R>(p: Procedure<A, R>, args: A, o?: CallOptions) => Promise<R>
