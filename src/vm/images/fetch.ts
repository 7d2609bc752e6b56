/** Brings an image into the cache, one process at a time. */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Template } from '../../config/index.ts'
import { VmError } from '../types.ts'
import { accept, type Fetched } from './accept.ts'
import { download } from './download.ts'
import { makeFolders, storage } from './files.ts'
import { tryLock } from './lock.ts'
import { folders, originOf, shown } from './names.ts'
import { openPart, peekPart, removePart } from './part.ts'
import type { ImageRecord } from './record.ts'
import { speedometer } from './rate.ts'
import type { SpaceGate } from './space.ts'
import { takeFile } from './take.ts'
import type { ImageHooks } from './types.ts'

export interface FetchOptions {
  dir: string
  name: string
  origin: string
  template: Template
  /** looks again, once the lock is held: what another process has fetched meanwhile need not be fetched again */
  there(): Promise<boolean>
  /** for a URL without a checksum: what the cache has of it */
  known?: ImageRecord
  space: SpaceGate
  max_virtual_size: number
  no_progress_ms: number
  retry_ms: number
  stale_ms: number
}

/** @throws {VmError}; the signal's reason */
export async function fetchImage(f: FetchOptions, hooks: ImageHooks): Promise<'fetched' | 'there' | 'unchanged'> {
  await makeFolders(f.dir)
  const from = originOf(f.template)
  const waited = waiting(f, from, hooks)
  for (;;) {
    hooks.signal.throwIfAborted()
    const held = await tryLock(f.dir, `${f.name}@${from}`, f.stale_ms).catch((e) => {
      throw storage(e, `The image cache ${f.dir} could not be locked`)
    })
    if (!held) {
      await waited()
      continue
    }
    await using _lock = held
    if (await f.there()) return 'there'
    const signal = AbortSignal.any([hooks.signal, held.lost])
    try {
      return await one(f, { ...hooks, ...steady(hooks), signal })
    } catch (e) {
      hooks.signal.throwIfAborted()
      if (!held.lost.aborted) throw e
      hooks.log?.(`Another process took over the download of ${f.name} while this one stood still.`)
    }
  }
}

/** Progress a few times a second, and whenever something else is done. */
function steady(hooks: ImageHooks): Pick<ImageHooks, 'progress'> {
  const { progress } = hooks
  if (!progress) return {}
  let last = { at: Number.NEGATIVE_INFINITY, doing: '' }
  return {
    progress: (done, total, more) => {
      const at = performance.now()
      if (more.doing === last.doing && at - last.at < 200 && done !== total) return
      last = { at, doing: more.doing }
      progress(done, total, more)
    },
  }
}

/** Waits a little and tells how far the other process is. */
function waiting(f: FetchOptions, from: string, hooks: ImageHooks): () => Promise<void> {
  let told = false
  let speed: ReturnType<typeof speedometer> | undefined
  return async () => {
    if (!told) hooks.log?.(`Another process is fetching the image ${f.name}: it is waited for.`)
    told = true
    const { size, total } = await peekPart(f.dir, f.name, from)
    speed ??= speedometer(size)
    const bytes_per_second = speed(size)
    hooks.progress?.(size, total, {
      doing: 'waits for another process that fetches it',
      ...(bytes_per_second === undefined ? {} : { bytes_per_second }),
    })
    await sleep(250, undefined, { signal: hooks.signal }).catch(() => hooks.signal.throwIfAborted())
  }
}

async function one(f: FetchOptions, hooks: ImageHooks): Promise<'fetched' | 'unchanged'> {
  const { template: t } = f
  const base: Omit<Fetched, 'path' | 'label'> = {
    name: f.name,
    origin: f.origin,
    ...(t.checksum === undefined ? {} : { checksum: t.checksum }),
    ...(t.format === undefined ? {} : { format: t.format }),
  }
  if (t.path !== undefined) {
    const path = join(folders(f.dir).partial, `${f.name}@${f.origin}.${randomBytes(6).toString('hex')}.copy`)
    try {
      const file = await takeFile(t.path, path, f.space, hooks)
      await accept(
        f.dir,
        { ...base, path, label: t.path, source: t.path, file },
        { ...hooks, max_virtual_size: f.max_virtual_size },
      )
      return 'fetched'
    } catch (e) {
      throw storage(e, `The image ${t.path} could not be taken into the cache`)
    } finally {
      await removePart(path)
    }
  }
  return fromUrl(f, t.url!, base, hooks)
}

async function fromUrl(
  f: FetchOptions,
  url: string,
  base: Omit<Fetched, 'path' | 'label'>,
  hooks: ImageHooks,
): Promise<'fetched' | 'unchanged'> {
  if (f.template.checksum === undefined && url.startsWith('http:'))
    hooks.log?.(
      `${shown(url)} is fetched without encryption and without a checksum: nobody can tell whether it is the image that was meant.`,
    )
  for (let again = false; ; again = true) {
    await using part = await openPart(f.dir, f.name, originOf(f.template)).catch((e) => {
      throw storage(e, `The image cache ${f.dir} could not be written to`)
    })
    const how = await download(
      part,
      {
        url,
        checked: f.template.checksum !== undefined,
        ...(f.known ? { known: f.known } : {}),
        no_progress_ms: f.no_progress_ms,
        retry_ms: f.retry_ms,
        space: f.space,
      },
      hooks,
    )
    try {
      if (how === 'unchanged') return 'unchanged'
      const { etag, last_modified } = part.version
      await accept(
        f.dir,
        {
          ...base,
          path: part.path,
          label: `The image from ${shown(url)}`,
          source: shown(url),
          ...(etag === undefined ? {} : { etag }),
          ...(last_modified === undefined ? {} : { last_modified }),
        },
        { ...hooks, max_virtual_size: f.max_virtual_size },
      )
      await part.discard() // what is left of it: its record
      return 'fetched'
    } catch (e) {
      const wrong = e instanceof VmError && (e.code === 'image-checksum' || e.code === 'image-invalid')
      // who is cancelled while it is checked, or could not put it in place, has a whole download
      if (wrong) await part.discard()
      if (!wrong || !part.joined || again) throw storage(e, `The image ${f.name} could not be put into the cache`)
      hooks.log?.(
        `What was put together from two downloads of ${shown(url)} is not right (${e.message}): it is fetched once more from the beginning.`,
      )
    }
  }
}
