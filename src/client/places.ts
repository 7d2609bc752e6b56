/**
 * The spools that views look into: the one that the configuration names, and the user's own, where `vmspool run` puts his commands. They
 * are one for root where the host's spool is root's, for users without a spool of the host, and when a spool was named.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { ClientError } from './errors.ts'
import { defaultInstance, locate, locateView, type Place, requireSpool, type SpoolPlace, type View } from './place.ts'
import { ownRoot } from './run-place.ts'
import { type JobStatus, type Match, matching, noSuchJob } from './status.ts'

/** Those that exist; the first is the one that is meant when nobody says. */
export async function viewPlaces(o: SpoolPlace = {}): Promise<View[]> {
  return existing([await locateView(o)], await ownOf(o, locateView))
}

/** The same with the configuration, for those who change something. */
export async function places(o: SpoolPlace = {}): Promise<Place[]> {
  return existing([await locate(o)], await ownOf(o, locate))
}

async function ownOf<T extends View>(o: SpoolPlace, at: (o: SpoolPlace) => Promise<T>): Promise<T[]> {
  if (o.root !== undefined || process.env.VMSPOOL_ROOT) return []
  const instance = o.instance ?? (process.env.VMSPOOL_INSTANCE || defaultInstance)
  const root = ownRoot(instance)
  return existsSync(join(root, instance, 'output')) ? [await at({ ...o, root })] : []
}

/** @throws ClientError 73 or 77 when there is none */
async function existing<T extends View>(first: T[], own: T[]): Promise<T[]> {
  const others = own.filter((p) => p.layout.output !== first[0]!.layout.output)
  try {
    await requireSpool(first[0]!, 'read')
    return [...first, ...others]
  } catch (error) {
    if (others.length > 0 && error instanceof ClientError) return others
    throw error
  }
}

/**
 * A job by its id, an unambiguous beginning of its id, or its name, in any of these spools: of a name the newest.
 * @throws ClientError 2 when nothing or more than one job is meant
 */
export async function findAnywhere<T extends View>(
  all: readonly T[],
  which: string,
): Promise<{ place: T; status: JobStatus }> {
  const found: { place: T; match: Match }[] = []
  for (const place of all) {
    const match = await matching(place, which)
    if (match !== undefined) found.push({ place, match })
  }
  for (const by of ['id', 'name', 'prefix'] as const) {
    const those = found.filter((f) => f.match.by === by)
    if (those.length === 0) continue
    const newest = those.sort((a, b) => (a.match.status.id < b.match.status.id ? 1 : -1))[0]!
    if (by === 'prefix' && those.length > 1)
      throw new ClientError(
        2,
        `"${which}" is the beginning of jobs in two spools (${those.map((t) => `${t.match.status.id} below ${t.place.layout.root}`).join(', ')}). Write more of the one you mean.`,
      )
    return { place: newest.place, status: newest.match.status }
  }
  throw noSuchJob(all, which)
}
