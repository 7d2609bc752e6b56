import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** Folders whose files run longest come first, so that no core idles behind a long file that started last. */
const first = [
  'test/crash/',
  'test/chaos/',
  'test/sim/',
  'test/systemd/',
  'test/contract/',
  'test/e2e/',
  'test/convert/',
  'test/agent/',
  'test/cli/',
]

function rank(file: string): number {
  const i = first.findIndex((dir) => file.includes(`/${dir}`))
  return i === -1 ? first.length : i
}

export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return [...files].sort((a, b) => rank(a.moduleId) - rank(b.moduleId) || a.moduleId.localeCompare(b.moduleId))
  }
}
