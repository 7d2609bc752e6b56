/** Fetches a URL into a part file, in as many tries as bring it further, and goes on where an earlier process stopped. */
import { setTimeout as sleep } from 'node:timers/promises'
import { duration } from '../../text/people.ts'
import { VmError } from '../types.ts'
import { codeOf, storage } from './files.ts'
import { failed, get, Interrupted, type Reply, retryAfter } from './http.ts'
import { shown } from './names.ts'
import type { Part, Version } from './part.ts'
import { speedometer } from './rate.ts'
import type { SpaceGate } from './space.ts'
import type { ImageHooks } from './types.ts'

/** Tries one after the other that bring nothing new. */
const TRIES = 5
const MAX_PAUSE_MS = 60_000
/** Bytes between two times that the part is made durable. */
const SYNC_EVERY = 128 * 1024 * 1024

export interface DownloadOptions {
  url: string
  /** the content is checked by a checksum afterwards */
  checked: boolean
  /** what the cache has already: "unchanged" when the server still has the same */
  known?: { etag?: string | undefined; last_modified?: string | undefined }
  no_progress_ms: number
  retry_ms: number
  space: SpaceGate
}

/** @throws {VmError} image-download, storage; the signal's reason */
export async function download(part: Part, o: DownloadOptions, hooks: ImageHooks): Promise<'whole' | 'unchanged'> {
  let furthest = part.size
  let inVain = 0
  if (part.size > 0) hooks.log?.(`The download of ${shown(o.url)} goes on at byte ${part.size}.`)
  for (;;) {
    try {
      return await attempt(part, o, hooks)
    } catch (e) {
      hooks.signal.throwIfAborted()
      if (!(e instanceof Interrupted)) throw await noSpace(e, part)
      // a server that cannot go on begins again each time: only what was never reached before counts
      inVain = part.size > furthest ? 0 : inVain + 1
      furthest = Math.max(furthest, part.size)
      if (inVain >= TRIES)
        throw failed(
          `${e.message}; ${TRIES} tries brought nothing new (${part.size} bytes are there)`,
          'Check the network, the proxy (HTTPS_PROXY) and the address. What was downloaded is kept, and the next try goes on from there.',
          true,
        )
      const pause = Math.min(MAX_PAUSE_MS, Math.max(e.retry_after_ms ?? 0, o.retry_ms * 2 ** Math.max(0, inVain - 1)))
      const doing = `tries again in ${duration(pause)}, for ${e.message}`
      hooks.log?.(`The download of ${shown(o.url)} stopped: ${e.message}. The next try is in ${duration(pause)}.`)
      hooks.progress?.(part.size, part.version.total, { doing })
      await sleep(pause, undefined, { signal: hooks.signal }).catch(() => hooks.signal.throwIfAborted())
    }
  }
}

async function attempt(part: Part, o: DownloadOptions, hooks: ImageHooks): Promise<'whole' | 'unchanged'> {
  const validator = strong(part.version)
  // without a validator only a checksum can tell whether the rest belongs to what we have
  const resume = part.size > 0 && (validator !== undefined || o.checked)
  const { etag, last_modified } = o.known ?? {}
  const headers: Record<string, string> = resume
    ? { Range: `bytes=${part.size}-`, ...(validator === undefined ? {} : { 'If-Range': validator }) }
    : {
        ...(etag === undefined ? {} : { 'If-None-Match': etag }),
        ...(last_modified === undefined ? {} : { 'If-Modified-Since': last_modified }),
      }
  const reply = await get(o.url, {
    headers,
    signal: hooks.signal,
    no_progress_ms: o.no_progress_ms,
    secure: !o.checked,
  })
  try {
    if (reply.status === 304 && !resume && o.known) return 'unchanged'
    const begun = await begin(part, reply, o)
    if (begun === 'whole') return 'whole'
    return await receive(part, reply, o, hooks)
  } finally {
    reply.close()
  }
}

/** Understands the head of a reply and brings the part to where the body begins. */
async function begin(part: Part, reply: Reply, o: DownloadOptions): Promise<'whole' | 'body'> {
  const { status, headers } = reply
  if (status === 416) {
    const total = /^bytes \*\/(\d+)$/.exec(headers['content-range'] ?? '')?.[1]
    if (total !== undefined && Number(total) === part.size) return 'whole'
    await part.restart({})
    throw new Interrupted('the server has no more of the file than what is there, and of another length')
  }
  if (status !== 200 && status !== 206) throw refusal(status, reply, o.url)
  const encoding = headers['content-encoding']?.trim().toLowerCase() ?? 'identity'
  if (encoding !== 'identity' && encoding !== '')
    throw failed(
      `the server sends the file packed (Content-Encoding: ${encoding}) although that was not asked for, so neither its length nor its checksum would be the image's`,
      'Correct the server, or give another address.',
    )
  const version = versionOf(reply)
  if (status === 200) {
    const chunked = /chunked/i.test(headers['transfer-encoding'] ?? '')
    if (version.total === undefined && !chunked && !o.checked)
      throw failed(
        'the server does not say how long the file is, so one that was cut off could not be told from a whole one',
        'Give the template a checksum.',
      )
    await o.space.need(version.total ?? 0)
    await part.restart(version)
    return 'body'
  }
  const range = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(headers['content-range'] ?? '')
  const total = range && range[3] !== '*' ? Number(range[3]) : undefined
  const fits =
    range &&
    Number(range[1]) === part.size &&
    (total === undefined || part.version.total === undefined || total === part.version.total) &&
    (version.etag === undefined || part.version.etag === undefined || version.etag === part.version.etag)
  if (!fits) {
    await part.restart({})
    throw new Interrupted(
      'the server has another version of the file by now, or another piece than the one that was asked for',
    )
  }
  if (total !== undefined) part.version = { ...part.version, total }
  part.joined = true
  await o.space.need((part.version.total ?? part.size) - part.size)
  return 'body'
}

async function receive(part: Part, reply: Reply, o: DownloadOptions, hooks: ImageHooks): Promise<'whole'> {
  const { total } = part.version
  const speed = speedometer(part.size)
  let unsynced = 0
  for await (const piece of reply.pieces()) {
    if (total !== undefined && part.size + piece.length > total) {
      await part.restart({})
      throw new Interrupted(`the server sent more than the ${total} bytes that it had promised`)
    }
    await o.space.pass(piece.length)
    await part.write(piece)
    unsynced += piece.length
    if (unsynced >= SYNC_EVERY) {
      unsynced = 0
      await part.sync()
    }
    const bytes_per_second = speed(part.size)
    hooks.progress?.(part.size, total, {
      doing: 'downloads',
      ...(bytes_per_second === undefined ? {} : { bytes_per_second }),
    })
  }
  if (total !== undefined && part.size < total)
    throw new Interrupted(`the connection ended after ${part.size} of ${total} bytes`)
  return 'whole'
}

function versionOf(reply: Reply): Version {
  const { headers } = reply
  const length = headers['content-length']
  const modified = headers['last-modified']
  return {
    ...(headers.etag === undefined ? {} : { etag: headers.etag }),
    ...(modified === undefined ? {} : { last_modified: modified }),
    ...(length !== undefined && /^\d{1,15}$/.test(length) && reply.status === 200 ? { total: Number(length) } : {}),
  }
}

/** What may stand in If-Range (RFC 9110 13.1.5): never a weak tag. A date counts when there is no tag: a second is the best it can tell. */
function strong(v: Version): string | undefined {
  if (v.etag !== undefined) return v.etag.startsWith('W/') ? undefined : v.etag
  return v.last_modified
}

function refusal(status: number, reply: Reply, url: string): unknown {
  const what = `${shown(url)} answers with status ${status}`
  if (status === 408 || status === 425 || status === 429 || status >= 500)
    return new Interrupted(what, { retry_after_ms: retryAfter(reply.headers['retry-after']) })
  const hint =
    status === 401 || status === 403
      ? 'It wants another user, or the signed address has expired.'
      : status === 404 || status === 410
        ? 'There is no such file (any more): publishers remove old images. Correct the address of the template.'
        : 'Check the address of the template.'
  return failed(what, hint)
}

/** On a full disk the part would be in everybody's way. */
async function noSpace(e: unknown, part: Part): Promise<unknown> {
  if (['ENOSPC', 'EDQUOT'].includes(codeOf(e) ?? '')) await part.discard()
  return e instanceof VmError ? e : storage(e, 'The image could not be written')
}
