/** The index of finished jobs: can there be one where it is to lie. */
import type { Place } from '../../client/place.ts'
import { bytes } from '../units.ts'
import { type Finding, note, ok, warn } from './types.ts'

/** Changes nothing: where there is no index yet only its place is looked at. */
export async function checkHistory(place: Place): Promise<Finding> {
  const { indexStatus } = await import('../../client/history-work.ts')
  const { historyPath, refuseNetwork } = await import('../../history/path.ts')
  const path = historyPath(place.history)
  try {
    const status = await indexStatus(place)
    if (status === undefined) {
      await nearest(path, refuseNetwork)
      return note('history', `There is no history at ${path} yet; lists read the folders until there is one.`)
    }
    const own = status.spools.find((s) => s.output === place.layout.output)
    const what = own === undefined ? 'does not know this spool yet' : own.complete ? `${own.jobs} jobs` : 'not complete'
    return ok('history', `${path}: ${what}, ${bytes(status.size_bytes)} in all`)
  } catch (error) {
    return warn('history', (error as Error).message, 'Set history.path to a file on a local disk of this host.')
  }
}

/** The filesystem of a folder that may not be there yet. */
async function nearest(path: string, check: (path: string) => void): Promise<void> {
  const { existsSync } = await import('node:fs')
  const { dirname, join } = await import('node:path')
  let dir = dirname(path)
  while (!existsSync(dir) && dirname(dir) !== dir) dir = dirname(dir)
  check(join(dir, 'history.db'))
}
