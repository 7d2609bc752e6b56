/** What the cache lets go of: by age, by size, and left-overs. Never what a VM is based on, never what was put in by hand. */
import { readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { dropFiles } from './accept.ts'
import { codeOf } from './files.ts'
import { briefLock, tryLock } from './lock.ts'
import { BY_HAND, folders, parseFileName } from './names.ts'
import { removePart } from './part.ts'
import { asImage, currentOf, type Entry, scan } from './scan.ts'
import type { CachedImage, Cleaned, ImagesOptions } from './types.ts'

type Options = ImagesOptions & { max_virtual_size: number; stale_ms: number }

/** Between getting an image and linking it nobody takes it away. */
const GRACE_MS = 3_600_000
/** What an interrupted download left is kept for so long. */
const PART_MS = 7 * 86_400_000

export async function cleanCache(o: Options): Promise<Cleaned> {
  const entries = await scan(o.dir, o)
  const sizes = new Map(entries.map((e) => [e, e.disk_bytes]))
  let total = [...sizes.values()].reduce((a, b) => a + b, 0)
  const removed: CachedImage[] = []
  let freed = 0
  for (const e of candidates(o, entries)) {
    const idle = Date.now() - Date.parse(e.record.used_at)
    const old = o.max_age > 0 && idle > o.max_age
    const large = o.max_bytes > 0 && total > o.max_bytes
    if (!old && !large && !isOutdated(o, e, entries)) continue
    if (!(await takeAway(o, e))) continue
    removed.push(asImage(e, false))
    freed += e.disk_bytes
    total -= e.disk_bytes
    o.log?.info('image.removed', {
      image: e.record.name,
      path: e.path,
      why: old ? 'images.max_age' : large ? 'images.max_bytes' : 'the template has changed',
    })
  }
  await leftOvers(o)
  return { removed, freed_bytes: freed, total_bytes: total }
}

/** Frees so many bytes if it can, however young the images are. */
export async function makeRoom(o: Options, bytes: number): Promise<void> {
  const entries = await scan(o.dir, o)
  let left = bytes
  for (const e of candidates(o, entries)) {
    if (left <= 0) return
    if (!(await takeAway(o, e))) continue
    left -= e.disk_bytes
    o.log?.info('image.removed', { image: e.record.name, path: e.path, why: 'the disk is full' })
  }
}

/** Outdated ones first, then the least recently used. */
function candidates(o: Options, entries: readonly Entry[]): Entry[] {
  return entries
    .filter((e) => e.links <= 1 && Date.now() - Date.parse(e.record.used_at) > GRACE_MS)
    .filter((e) => e.origin !== BY_HAND || isOutdated(o, e, entries))
    .sort(
      (a, b) =>
        Number(isOutdated(o, b, entries)) - Number(isOutdated(o, a, entries)) ||
        (a.record.used_at < b.record.used_at ? -1 : 1),
    )
}

/** Another image has taken its place. One whose template is gone is merely not used. */
function isOutdated(o: Options, e: Entry, entries: readonly Entry[]): boolean {
  const t = o.templates[e.record.name]
  if (e.origin === BY_HAND ? t !== undefined : t === undefined) return false
  const now = currentOf(
    entries.filter((x) => x.record.name === e.record.name),
    t,
  )
  return now !== undefined && now !== e
}

/** Under the lock, and only if still nobody uses it. */
export async function takeAway(o: Options, e: Entry, grace_ms = GRACE_MS): Promise<boolean> {
  await using _lock = await briefLock(o.dir, o.stale_ms)
  const [now] = (await scan(o.dir, { ...o, only: e.record.name })).filter((x) => x.path === e.path)
  if (!now || now.links > 1 || Date.now() - Date.parse(now.record.used_at) < grace_ms) return false
  // out of the way first: who links it from now on finds it gone, who has linked it before shows in the number of links
  const aside = join(folders(o.dir).partial, `${e.file}.going`)
  await rename(e.path, aside)
  if ((await stat(aside)).nlink > 1) {
    await rename(aside, e.path)
    return false
  }
  await rm(aside, { force: true })
  await dropFiles(e.path)
  return true
}

async function leftOvers(o: Options): Promise<void> {
  const { partial } = folders(o.dir)
  for (const file of await readdir(partial).catch(() => [])) {
    const path = join(partial, file)
    const idle = Date.now() - ((await stat(path).catch(() => undefined))?.mtimeMs ?? Date.now())
    if (idle < PART_MS) continue
    const held = await tryLock(o.dir, file.slice(0, file.indexOf('@') + 9), o.stale_ms)
    if (!held) continue
    await using _lock = held
    await removePart(path)
  }
  for (const file of await readdir(o.dir).catch(() => [])) {
    const path = join(o.dir, file)
    const image = file.endsWith('.json') ? file.slice(0, -5) : undefined
    const orphan = image !== undefined && parseFileName(image) !== undefined && !(await exists(join(o.dir, image)))
    if (!orphan && !file.startsWith('.tmp-')) continue
    const idle = Date.now() - ((await stat(path).catch(() => undefined))?.mtimeMs ?? Date.now())
    if (idle > GRACE_MS) await rm(path, { force: true })
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (e) => codeOf(e) !== 'ENOENT',
  )
}
