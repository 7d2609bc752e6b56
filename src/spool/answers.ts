/** Moving earlier answers of a name out of the way, and keeping them. */
import { join } from 'node:path'
import { errno } from './errors.ts'
import { ensureDurableDir, listed, move, namesIn, removeTree } from './moves.ts'
import { ANSWER_SUFFIXES, isPolled, publicationOrder, type Ticket, ULID } from './names.ts'
import { me } from './owner.ts'
import { randomHex, type Spool } from './spool.ts'

/** The public names of an answer that exist now. */
export async function publicFiles(s: Spool, answer: string): Promise<string[]> {
  const names = ANSWER_SUFFIXES.map((suffix) => answer + suffix)
  // By listing over a network, where a name once seen absent stays so for half a minute; by trying on a local disk,
  // where the output folder may hold a million answers.
  if (s.remote) {
    const there = new Set(await s.fs.readdirFresh(s.layout.output))
    return names.filter((n) => there.has(n))
  }
  const found = await Promise.all(
    names.map(async (n) => {
      try {
        await s.fs.lstat(join(s.layout.output, n))
        return n
      } catch (error) {
        if (errno(error) === 'ENOENT') return undefined
        throw error
      }
    }),
  )
  return found.filter((n) => n !== undefined)
}

/**
 * Accept, step 3. First the answers that older jobs of the name have ready but not published: their publisher then finds
 * nothing to move. Then what is public. Both before this job counts as accepted, so no client ever takes an old
 * answer for the new one. fsync of output/: after power loss the old answer must not be back.
 *
 * `owner` is who began this accept: when it is fenced in the middle its .old/ is gone, and what its successor published stays.
 */
export async function supersede(
  s: Spool,
  owner: string,
  answer: string,
  id: string,
  older: readonly Ticket[],
): Promise<void> {
  for (const ticket of older) await supersedeAnswer(s, ticket.id)
  // The reverse of publication: what pollers wait for disappears first, so that no image is ever seen without its parts, nor comes
  // back without them after power loss.
  const files = publicationOrder(await publicFiles(s, answer)).reverse()
  const mine = join(s.layout.old, owner)
  for (const [i, file] of files.entries()) {
    if (i > 0 && isPolled(files[i - 1]!) && !isPolled(file)) await s.sync(s.layout.output)
    const from = join(s.layout.output, file)
    try {
      await s.fs.rename(from, join(mine, `${id}.${randomHex(s, 4)}--${file}`))
    } catch (error) {
      // Gone either way is what we want; still there, or a folder of ours that is gone (fenced), is an error.
      if (errno(error) !== 'ENOENT' || (await listed(s, from))) throw error
      await s.fs.readdir(mine)
    }
  }
  if (files.length > 0 || older.length > 0) await s.sync(s.layout.output)
}

/** jobs/<id>/answer → superseded/<id>/answer. Its job still ends as what it was; only the name belongs to a later one. */
export async function supersedeAnswer(s: Spool, id: string): Promise<void> {
  const from = join(s.layout.outputJobs, id, 'answer')
  const dir = join(s.layout.superseded, id)
  if (!(await namesIn(s, join(s.layout.outputJobs, id), true)).includes('answer')) return
  await ensureDurableDir(s, dir)
  await move(s, from, join(dir, 'answer'))
  await s.sync(dir)
}

/**
 * .old/<me>/ → superseded/<id of the job that made them>/, so that people find earlier answers by job. Runs behind the
 * protocol: where the files lie in between changes nothing.
 */
export async function tidyOld(s: Spool): Promise<number> {
  const mine = join(s.layout.old, me(s).id)
  const folders = [mine]
  for (const name of await namesIn(s, mine))
    if (name.startsWith('t-')) folders.push(...(await nested(s, join(mine, name))))
  let moved = 0
  for (const folder of folders) {
    const files = (await namesIn(s, folder)).filter((n) => n.includes('--'))
    const batches = new Map<string, string[]>()
    for (const f of files) {
      const by = f.slice(0, 26) // the job for which they were moved away
      batches.set(by, [...(batches.get(by) ?? []), f])
    }
    for (const [by, names] of batches) {
      const maker = await makerOf(s, folder, names)
      const dir = join(s.layout.superseded, maker ?? `before-${by}`)
      await ensureDurableDir(s, dir)
      for (const name of names) {
        const target = name.slice(name.indexOf('--') + 2)
        const there = await namesIn(s, dir, true)
        const to = there.includes(target) ? `${randomHex(s, 3)}--${target}` : target
        if (await move(s, join(folder, name), join(dir, to))) moved += 1
      }
      await s.sync(dir)
    }
    if (folder !== mine && (await namesIn(s, folder)).length === 0) await removeTree(s, folder)
  }
  return moved
}

async function nested(s: Spool, folder: string): Promise<string[]> {
  const out = [folder]
  for (const name of await namesIn(s, folder))
    if (name.startsWith('t-')) out.push(...(await nested(s, join(folder, name))))
  return out
}

/** Whose answer these files were: the job id in their result or status file. */
async function makerOf(s: Spool, folder: string, names: readonly string[]): Promise<string | undefined> {
  for (const suffix of ['.result.json', '.status.json']) {
    const file = names.find((n) => n.endsWith(suffix))
    if (!file) continue
    try {
      const { bytes } = await s.fs.readFile(join(folder, file), 1 << 20)
      const id = JSON.parse(bytes.toString('utf8'))?.id
      if (typeof id === 'string' && ULID.test(id)) return id
    } catch {
      // a file that cannot be read says nothing about its maker
    }
  }
  return undefined
}
